import json

import pytest
import torch

from learning_core.errors import Malformed
from learning_core.models.language import bits_per_character, generate, language_loss
from learning_core.models.language_hugging_face import hugging_face_language
from learning_core.models.peft_door import Plan, adapted

TEXT = b"To be, or not to be"


def tokenizer():
    """One token for each byte, so that a person can count them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request, tmp_path_factory):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "gpt2":
            sizes = GPT2Config(vocab_size=256, n_positions=16, n_embd=16, n_layer=2, n_head=2)
            GPT2LMHeadModel(sizes).save_pretrained(path)
        else:
            sizes = LlamaConfig(
                vocab_size=256,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=16,
            )
            LlamaForCausalLM(sizes).save_pretrained(path)
    tokenizer().save(str(path / "tokenizer.json"))
    return path


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_local_model_answers_as_transformers_does(folder):
    from transformers import AutoModelForCausalLM

    ours = hugging_face_language(files_of(folder))
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    ids = ours.encode(TEXT)[None, :16]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits)


def test_its_tokenizer_is_its_own_and_loses_nothing(folder):
    ours = hugging_face_language(files_of(folder))
    assert ours.encode(TEXT).shape == (19,)
    assert ours.decode(ours.encode(TEXT)) == TEXT


def test_what_is_written_for_bytes_works_on_it(folder):
    ours = hugging_face_language(files_of(folder))
    assert ours.context == 16
    assert not any(value.requires_grad for value in ours.module.parameters())
    bits = bits_per_character(ours, TEXT, ours.encode)  # 18 tokens of one byte each: 16 in one window, 2 in another
    ids = ours.encode(TEXT)
    nats = 16 * language_loss(ours, ids[None, :17]).item() + 2 * language_loss(ours, ids[None, 16:]).item()
    assert bits == pytest.approx(nats / 18 / 0.6931472, rel=1e-5)


def test_it_writes_the_likeliest_text_with_and_without_memory(folder):
    ours = hugging_face_language(files_of(folder))
    prompt = ours.encode(b"To")[None]
    ids = prompt
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat((ids, ours(ids)[:, -1].argmax(dim=1, keepdim=True)), dim=1)
    assert torch.equal(generate(ours, prompt, 8, 0, torch.Generator()), ids)
    assert generate(ours, prompt, 30, 1.0, torch.Generator().manual_seed(0)).shape == (1, 32)


def test_an_adapter_from_the_door_to_peft_can_be_taught(folder):
    ours = hugging_face_language(files_of(folder))
    layers = [path for path, layer in ours.module.named_modules() if type(layer) is torch.nn.Linear]
    windows = ours.encode(TEXT)[None, :17]
    before = language_loss(ours, windows)
    both = adapted(ours.module, {"shared": Plan([path for path in layers if path != "lm_head"], rank=2)})
    torch.testing.assert_close(language_loss(ours, windows), before)  # a new adapter changes nothing
    learned = list(both.leaves["shared"].values())
    for _ in range(5):
        slopes = torch.autograd.grad(language_loss(ours, windows), learned)
        with torch.no_grad():
            for value, slope in zip(learned, slopes, strict=True):
                value.sub_(0.3 * slope)
    assert language_loss(ours, windows) < before
    assert not any(value.requires_grad for name, value in ours.module.named_parameters() if "lora" not in name)


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(folder, lost):
    files = {name: data for name, data in files_of(folder).items() if name != lost}
    with pytest.raises(Malformed, match="safetensors" if lost.startswith("model") else lost):
        hugging_face_language(files)


def test_pickled_weights_are_never_read(folder):
    files = {name: data for name, data in files_of(folder).items() if name != "model.safetensors"}
    with pytest.raises(Malformed, match="convert them first"):
        hugging_face_language({**files, "pytorch_model.bin": b"\x80\x04."})


def test_code_in_the_folder_is_never_run(folder):
    files = files_of(folder)
    settings = json.loads(files["config.json"]) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    evil = b"raise SystemExit('this file was run')"
    model = hugging_face_language({**files, "config.json": json.dumps(settings).encode(), "evil.py": evil})
    assert type(model.module).__module__.startswith("transformers.models.")
    settings["model_type"] = "evil"
    with pytest.raises(Malformed, match="cannot be read"):
        hugging_face_language({**files, "config.json": json.dumps(settings).encode(), "evil.py": evil})


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_damaged_files_are_refused(folder, name):
    with pytest.raises(Malformed, match="cannot be read"):
        hugging_face_language({**files_of(folder), name: b"{damaged"})


def test_reading_a_model_draws_nothing_from_the_common_generator(folder):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    hugging_face_language(files_of(folder))
    torch.testing.assert_close(torch.rand(2), wanted, rtol=0, atol=0)


def test_weights_of_another_model_are_refused(folder):
    from safetensors.torch import load, save

    files = files_of(folder)
    weights = load(files["model.safetensors"])
    short = {name: value for name, value in weights.items() if ".1." not in name}
    with pytest.raises(Malformed, match="another language model"):
        hugging_face_language({**files, "model.safetensors": save(short)})


def test_a_file_made_without_the_head_is_one_of_the_same_model(folder):
    from safetensors.torch import load, save

    files = files_of(folder)
    weights = load(files["model.safetensors"])
    if "lm_head.weight" in weights:
        pytest.skip("the head of this one is its own and cannot be left out")
    bare = {name.removeprefix("transformer."): value for name, value in weights.items()}
    ours, again = (hugging_face_language({**files, "model.safetensors": save(each)}) for each in (weights, bare))
    ids = ours.encode(TEXT)[None, :8]
    assert torch.equal(ours(ids), again(ids))
