"""The encoder's default head, and the one to beat: texts to features once, then sums, then one equation.

features = text_features(encoder, public_texts)
sums = statistics_of(features(texts), labels, num_classes)       # + those of other tasks, nodes, days
answers = ridge(sums, STRENGTH).logits(features(queries)).argmax(axis=1)
"""

from collections.abc import Callable, Sequence

from learning_core.methods.analytic import Wide, centred_units, relu_features
from learning_core.models.encoder import Encoder, embed, word_and_meaning

FEATURES, STRENGTH = 4096, 0.01  # measured on CLINC150's validation split; memory grows with the square
PIECES = 4  # of `word_and_meaning`


def text_features(
    encoder: Encoder, public_texts: Sequence[str], count: int = FEATURES, seed: int = 0
) -> Callable[[Sequence[str]], Wide]:
    """Texts -> [N, count] on the grid, by what is said and how, about the mean of some texts that everyone may know.

    Nodes whose sums are to be added need the same encoder, public texts, count and seed.
    """
    centre = embed(encoder, public_texts, word_and_meaning).mean(axis=0)
    lift = relu_features(len(centre), count, seed)

    def features(texts: Sequence[str]) -> Wide:
        return lift(centred_units(embed(encoder, texts, word_and_meaning), centre, PIECES))

    return features
