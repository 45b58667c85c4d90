import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.physics import Board, DeviceState, step, sysfs_files


def settle(share, board=None):
    board = board or Board(battery_j=None)
    state = DeviceState(25.0, 25.0)
    for _ in range(400):
        state = step(state, board, share, 10.0)
    return state


def test_a_device_settles_where_its_power_times_its_resistance_says():
    board = Board(battery_j=None)
    assert settle(1.0).die_c == pytest.approx(25 + (board.idle_w + board.learning_w) * 8.0, abs=0.1)


def test_a_device_at_rest_in_cool_air_never_warms_above_what_its_idle_power_explains():
    hot = DeviceState(85.0, 85.0)
    assert step(hot, Board(), 0.0, 60.0).die_c < 85.0


@given(st.floats(-20, 120), st.floats(0, 1), st.floats(0.01, 600))
def test_no_step_however_long_overshoots(start, share, dt):
    board = Board(battery_j=None)
    state = step(DeviceState(start, start), board, share, dt)
    power_w = board.idle_w + share * board.learning_w
    highest = max(start, board.ambient_c + power_w * board.body_to_air) + power_w * board.die_to_body
    assert min(start, board.ambient_c) - 1e-6 <= state.die_c <= highest + 1e-6


def test_learning_drains_a_battery_and_a_charger_fills_it():
    state = DeviceState(30, 30, charge=0.5)
    used = step(state, Board(), 1.0, 100.0).charge
    assert used == pytest.approx(0.5 - 100 * 6.7 / 20_000)
    assert step(DeviceState(30, 30, 0.5, plugged=True), Board(), 1.0, 100.0).charge > 0.5


def test_the_kernel_files_are_in_the_kernels_units():
    files = sysfs_files(DeviceState(41.25, 30, charge=0.129, plugged=False), Board())
    assert files["sys/class/thermal/thermal_zone0/temp"] == "41250\n"
    assert files["sys/class/power_supply/BAT0/capacity"] == "12\n"
    assert files["sys/class/power_supply/BAT0/status"] == "Discharging\n"


def test_a_mains_device_shows_no_battery():
    assert not any("power_supply" in path for path in sysfs_files(DeviceState(30, 30), Board(battery_j=None)))
