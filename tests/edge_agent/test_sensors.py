"""What single texts mean, and that no text whatever breaks a reader."""

import contextlib
import json
import math
from dataclasses import fields

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.sensors.device import MACHINE_FILES, Look, telemetry_of
from edge_agent.sensors.network import ROUTES, ROUTES6, metered, parse_metered, parse_way_out, parse_way_out6
from edge_agent.sensors.pressure import (
    cpu_pressure,
    free_memory,
    parse_cores,
    parse_free_mib,
    parse_load,
    parse_pressure,
)
from edge_agent.sensors.rails import module_power
from edge_agent.sensors.raspberry import held_back, parse_throttled, under_voltage
from edge_agent.sensors.snapshot import Snapshot
from edge_agent.sensors.supply import SUPPLY_FILES, parse_share, power
from edge_agent.sensors.termux import parse_battery, phone_power
from edge_agent.sensors.thermal import heat, parse_millidegrees
from edge_agent.sensors.throttling import COOLER_FILES, of_caps, throttled
from edge_agent.values import Quality

PARSERS = (
    *(parse_millidegrees, parse_share, parse_throttled, parse_battery),
    *(parse_pressure, parse_load, parse_cores, parse_free_mib, parse_metered),
)
NOTHING = Snapshot("", {}, Quality.ABSENT, 0.0)


def snapshot(quality=Quality.OK, age_s=0.0, folder="zone", /, **texts):
    return Snapshot(folder, texts, quality, age_s)


def files(texts):
    return Snapshot("place", texts, Quality.OK, 0.0)


def battery(**texts):
    return snapshot(type="Battery", **{"status": "Discharging", "capacity": "50", **texts})


def test_a_silent_zone_makes_the_whole_temperature_as_old_as_it_is():
    zones = [snapshot(type="cpu", temp="50000"), snapshot(Quality.STALE, 9.0, type="gpu", temp="40000")]
    reading, _ = heat(zones, [])
    assert (reading.value, reading.quality, reading.age_s) == (50.0, Quality.STALE, 9.0)


def test_a_denied_zone_says_so():
    assert heat([snapshot(Quality.DENIED, type="cpu")], [])[0].quality is Quality.DENIED


def test_a_trip_is_taken_from_the_hottest_zone_that_has_one():
    cool = {"trip_point_0_type": "passive", "trip_point_0_temp": "60000"}
    warm = {"trip_point_0_type": "critical", "trip_point_0_temp": "105000"} | {
        "trip_point_1_type": "hot",
        "trip_point_1_temp": "95000",
    }
    zones = [snapshot(type="modem0", temp="90000", **cool), snapshot(type="gpu", temp="50000", **cool)]
    zones += [snapshot(type="cpu", temp="55000", **warm), snapshot(type="tj", temp="56000")]
    assert [reading.value for reading in heat(zones, [])] == [56.0, 95.0]


@pytest.mark.parametrize("temp", ["-274000", "0", "12000", "no", "4294967295"])
def test_a_trip_that_is_switched_off_is_no_trip(temp):
    zone = snapshot(type="cpu", temp="50000", trip_point_0_type="passive", trip_point_0_temp=temp)
    assert heat([zone], [])[1].quality is Quality.IMPLAUSIBLE


@pytest.mark.parametrize("text", ["", "hot", "0", "-256000", "151000", "nan", "48.6"])
def test_no_chip_has_this_temperature(text):
    with pytest.raises(ValueError, match=r".*"):
        parse_millidegrees(text)


@pytest.mark.parametrize(
    ("supplies", "plugged"),
    [
        ([snapshot(type="Battery", status="Discharging", capacity="50")], 0.0),
        ([snapshot(type="Battery", status="Charging", capacity="50")], 1.0),
        ([snapshot(type="Battery", status="Full", capacity="100")], 1.0),
        ([snapshot(type="Battery", status="Not charging", capacity="80")], 1.0),
        ([snapshot(type="Battery", status="Unknown", capacity="50")], 0.0),
        ([snapshot(type="Battery", status="Unknown", capacity="50"), snapshot(type="USB_PD", online="1")], 1.0),
        ([snapshot(type="UPS", status="Discharging", capacity="50")], 0.0),
        ([snapshot(type="Mains", online="0")], 1.0),  # a socket and no battery
    ],
)
def test_who_feeds_the_device(supplies, plugged):
    assert power(supplies).plugged.value == plugged


def test_two_batteries_count_by_what_they_hold():
    assert power([battery(capacity="20"), battery(capacity="60")]).charge.value == pytest.approx(0.4)
    sized = [battery(capacity="20", energy_full="30000000"), battery(capacity="60", energy_full="10000000")]
    assert power(sized).charge.value == pytest.approx(0.3)


def test_supplies_that_may_not_be_read_leave_all_of_them_unknown():
    supply = power([snapshot(Quality.DENIED)])
    assert {getattr(supply, field.name).quality for field in fields(supply)} == {Quality.DENIED}


def test_a_battery_with_an_impossible_charge_is_implausible():
    assert power([battery(capacity="140")]).charge.quality is Quality.IMPLAUSIBLE


def test_a_battery_gives_the_magnitude_of_its_current_times_its_voltage():
    for sign in ("", "-"):
        drawn = power([battery(current_now=f"{sign}500000", voltage_now="4000000")]).power_w
        assert (drawn.value, drawn.quality) == (2.0, Quality.OK)


def test_the_current_into_a_battery_is_no_power_of_the_device():
    charging = battery(status="Charging", current_now="500000", voltage_now="4000000")
    assert power([charging]).power_w.quality is Quality.ABSENT


@pytest.mark.parametrize(("tenths", "quality"), [("0", "implausible"), ("2550", "implausible"), ("x", "implausible")])
def test_no_battery_has_this_temperature(tenths, quality):
    assert power([battery(temp=tenths)]).battery_temp_c.quality == quality


def test_a_cooler_whose_state_is_no_number_is_implausible():
    assert throttled([snapshot(type="Processor", cur_state="?")], NOTHING, {}).quality is Quality.IMPLAUSIBLE


def test_a_cap_on_the_clock_counts_only_where_no_cooler_tells():
    capped = files({"cpufreq/policy0/scaling_max_freq": "600000", "cpufreq/policy0/cpuinfo_max_freq": "1800000"})
    free = files({"cpufreq/policy0/scaling_max_freq": "1800000", "cpufreq/policy0/cpuinfo_max_freq": "1800000"})
    assert (of_caps(capped).value, of_caps(free).value) == (1.0, 0.0)
    assert throttled([], capped, {}).value == 1.0
    assert throttled([snapshot(type="cpufreq-cpu0", cur_state="0")], capped, {}).value == 0.0


@pytest.mark.parametrize(
    ("text", "weak", "slowed"),
    [("throttled=0x0", 0, 0), ("throttled=0x50005", 1, 1), ("throttled=0x50000", 0, 0), ("throttled=0x8\n", 0, 1)],
)
def test_the_firmware_tells_what_is_now_and_not_what_was(text, weak, slowed):
    firmware = files({"output": text})
    assert (under_voltage(firmware, []).value, held_back(firmware).value) == (weak, slowed)


def test_a_firmware_that_answers_nonsense_is_implausible():
    assert under_voltage(files({"output": "error=1"}), []).quality is Quality.IMPLAUSIBLE


def test_rails_without_a_common_input_are_added_and_an_unread_one_is_no_zero():
    rail = {"name": "ina3221", "in1_label": "GPU", "in1_input": "5000", "curr1_input": "400"}
    other = {**rail, "in1_label": "NC", "in2_label": "CPU", "in2_input": "5000", "curr2_input": "100"}
    assert module_power([files(rail), files(other)]).value == pytest.approx(2.5)
    del other["curr2_input"]
    assert module_power([files(rail), files(other)]).quality is Quality.ABSENT


def test_a_phone_that_says_little_is_believed_only_in_that():
    phone = phone_power(files({"output": '{"percentage": 41, "plugged": "PLUGGED_USB"}'}))
    assert (phone.charge.value, phone.plugged.value) == (0.41, 1.0)
    assert phone.battery_temp_c.quality is phone.power_w.quality is Quality.ABSENT


def test_a_phone_that_has_not_answered_yet_is_not_plugged():
    phone = phone_power(NOTHING)
    assert phone.charge.quality is phone.plugged.quality is Quality.ABSENT


def test_pressure_is_a_share_and_load_is_shared_by_the_cores():
    pressure = "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    assert parse_pressure(pressure) == 0.125
    assert parse_cores("0-3,6\n") == 5
    machine = {"proc/pressure/cpu": "", "proc/loadavg": "3.00 1.00 1.00 1/9 9", "sys/devices/system/cpu/online": "0-3"}
    assert cpu_pressure(files(machine)).value == 0.75
    assert cpu_pressure(files(machine | {"proc/loadavg": "99.00 1.00 1.00 1/9 9"})).value == 1.0


def test_free_memory_is_what_programs_may_still_take():
    assert free_memory(files({"proc/meminfo": "MemFree: 1 kB\nMemAvailable:    2048 kB\n"})).value == 2.0


ROUTE_HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def route(interface, destination="00000000", flags="0003", metric=600, mask="00000000"):
    return f"{interface}\t{destination}\t0101A8C0\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


def test_the_way_out_is_the_cheapest_default_route_that_is_up():
    lan = route("eth0", "0001A8C0", mask="00FFFFFF", metric=1)
    assert parse_way_out(ROUTE_HEAD + lan + route("wlan0") + route("wwan0", metric=700)) == "wlan0"
    assert parse_way_out(ROUTE_HEAD + lan + route("wlan0", flags="0002")) is None
    assert parse_way_out(ROUTE_HEAD + route("wwan0") + "wlan0\t0000") == "wwan0"  # cut off
    assert parse_way_out("") is None


def route6(interface, destination="0" * 32, length="00", metric="00000400", flags="00450003"):
    source, hop = f"{'0' * 32} 00", "fe80".ljust(32, "0")
    return f"{destination} {length} {source} {hop} {metric} 00000001 00000000 {flags} {interface:>8}\n"


NOWHERE6 = route6("lo", metric="ffffffff", flags="00200200")  # what every kernel has at the end


def test_where_only_ipv6_leads_out_the_way_is_found_there():
    lan = route6("eth0", destination="fd00".ljust(32, "0"), length="40", metric="00000100")
    assert parse_way_out6(lan + route6("wlan0", metric="00000401") + route6("wwan0") + NOWHERE6) == "wwan0"
    assert parse_way_out6(lan + NOWHERE6) is None
    assert parse_way_out6(route6("wwan0") + "0000 00") == "wwan0"  # cut off
    phone = {ROUTES: ROUTE_HEAD, ROUTES6: route6("rmnet0") + NOWHERE6}
    assert metered(files(phone), None).value == 1.0
    assert metered(files({ROUTES6: phone[ROUTES6]}), None).value == 1.0
    assert metered(files(phone | {ROUTES: ROUTE_HEAD + route("wlan0")}), None).quality is Quality.ABSENT
    told = files({"output": "GENERAL.DEVICE:rmnet0\nGENERAL.METERED:no\n"})
    assert metered(files(phone), told).value == 0.0


def test_network_manager_tells_of_each_interface_unless_it_does_not_know():
    told = "GENERAL.DEVICE:wlan0\nGENERAL.IP-IFACE:wlan0\nGENERAL.METERED:no (guessed)\n\n"
    modem = "GENERAL.DEVICE:cdc-wdm0\nGENERAL.IP-IFACE:wwan0\nGENERAL.METERED:yes\n\n"
    wire = "GENERAL.DEVICE:eth0\nGENERAL.IP-IFACE:\nGENERAL.METERED:unknown\n"
    assert parse_metered(told + modem + wire) == {"wlan0": False, "cdc-wdm0": True, "wwan0": True}


@pytest.mark.parametrize(
    ("interface", "told", "value"),
    [
        ("wlan0", "GENERAL.DEVICE:wlan0\nGENERAL.METERED:yes (guessed)\n", 1.0),
        ("wlan0", "GENERAL.DEVICE:wlan0\nGENERAL.METERED:no\n", 0.0),
        ("wwan0", "GENERAL.DEVICE:wwan0\nGENERAL.METERED:no\n", 0.0),  # a person said so
        ("wwan0", "GENERAL.DEVICE:wwan0\nGENERAL.METERED:unknown\n", 1.0),
        ("ppp0", None, 1.0),
        ("wlan0", None, None),
        ("wlan0", "Error: NetworkManager is not running.", None),
    ],
)
def test_bytes_cost_money_where_network_manager_says_so_or_a_modem_is_the_way_out(interface, told, value):
    machine = files({ROUTES: ROUTE_HEAD + route(interface)})
    reading = metered(machine, None if told is None else files({"output": told}))
    assert (reading.value if reading.quality is Quality.OK else None) == value


def test_a_program_that_refuses_or_a_device_without_a_way_out_tells_nothing():
    assert metered(files({ROUTES: ROUTE_HEAD + route("eth0")}), snapshot(Quality.DENIED)).quality is Quality.ABSENT
    assert metered(files({ROUTES: ROUTE_HEAD}), files({"output": "GENERAL.METERED:yes"})).quality is Quality.ABSENT
    assert metered(files({ROUTES: ROUTE_HEAD + "a b c d e f g h\n"}), None).quality is Quality.ABSENT


@given(st.text() | st.lists(st.sampled_from([ROUTE_HEAD, route("a"), route6("a"), "\t", "0", "ff", " x"])).map("".join))
def test_no_table_of_routes_breaks_the_reader(text):
    with contextlib.suppress(ValueError):
        assert parse_way_out(text) is None or isinstance(parse_way_out(text), str)
    with contextlib.suppress(ValueError):
        assert parse_way_out6(text) is None or isinstance(parse_way_out6(text), str)


SCRAPS = st.sampled_from(
    ["-", "0", "1", "9" * 300, "throttled=0x", "some avg10=", "MemAvailable: ", "nan", "Battery", "\n"]
)
TEXT = st.one_of(st.text(max_size=20), st.lists(SCRAPS, max_size=4).map("".join), st.integers().map(str))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
PHONE_FIELDS = st.sampled_from(["percentage", "plugged", "status", "temperature", "voltage", "current", "other"])
PHONE_TEXT = st.one_of(TEXT, st.dictionaries(PHONE_FIELDS, JSON, max_size=6).map(json.dumps), st.just("[" * 16000))


@example(parse_millidegrees, "9" * 400)
@given(st.sampled_from(PARSERS), st.one_of(TEXT, PHONE_TEXT))
@settings(max_examples=300)
def test_a_parser_understands_a_text_or_refuses_it(parser, text):
    with contextlib.suppress(ValueError):
        parsed = parser(text)
        figures = parsed.values() if isinstance(parsed, dict) else [parsed]
        assert all(math.isfinite(figure) for figure in figures)


def places(*names):
    texts = st.dictionaries(st.sampled_from(names), TEXT, max_size=len(names))
    return st.builds(Snapshot, st.just("place"), texts, st.sampled_from(Quality), st.floats(0, 1e6))


ZONES = places("type", "temp", "trip_point_0_type", "trip_point_0_temp")
CHIPS = places("name", "temp1_input", "temp1_crit", "in1_label", "in1_input", "curr1_input", "in0_lcrit_alarm")
TYPED = st.sampled_from(
    ["Battery", "Mains", "cpufreq-cpu0", "ina3221", "rpi_volt", "coretemp", "passive", "Discharging"]
)


def named(kind):
    """Half of them of a kind that the agent knows."""

    def name(snapshot, word):
        texts = {file: word if file in {"type", "name", "status"} else text for file, text in snapshot.texts.items()}
        return Snapshot(snapshot.place, texts, snapshot.quality, snapshot.age_s)

    return st.lists(st.one_of(kind, st.builds(name, kind, TYPED)), max_size=3)


LOOKS = st.builds(
    Look,
    zones=named(ZONES),
    coolers=named(places(*COOLER_FILES)),
    supplies=named(places(*SUPPLY_FILES)),
    chips=named(CHIPS),
    machine=places(*MACHINE_FILES),
    processors=places(
        "cpu0/thermal_throttle/core_throttle_count", "cpufreq/p/scaling_max_freq", "cpufreq/p/cpuinfo_max_freq"
    ),
    firmware=places("output"),
    network=st.none() | st.builds(lambda text: files({"output": text}), TEXT),
    phone=st.none() | st.builds(lambda text: files({"output": text}), PHONE_TEXT),
    earlier=st.dictionaries(st.just("cpu0/thermal_throttle/core_throttle_count"), st.integers()),
)


@given(LOOKS)
@settings(max_examples=200, deadline=None)
def test_whatever_a_device_says_each_belief_is_a_number_or_unknown(look):
    telemetry = telemetry_of(look)
    for field in fields(telemetry):
        reading = getattr(telemetry, field.name)
        if reading.quality in {Quality.OK, Quality.STALE}:
            assert math.isfinite(reading.value)
            if reading.unit in {"share", ""}:
                assert 0 <= reading.value <= 1
        else:
            assert not reading.is_known(1e12)
