"""Letters behind a value are a unit or a factor, and units of one dimension are converted."""

from fractions import Fraction

import pytest

from answers import canonical, equivalent
from answers.nouns import with_unit
from answers.spelling import plain_spelling
from answers.units import join_unit, read_unit, split_unit


@pytest.mark.parametrize(
    ("written", "value", "unit"),
    [
        ("5 cm", "5", "cm"),
        ("5cm", "5", "cm"),
        (r"\frac{1}{2} cm", r"\frac{1}{2}", "cm"),
        (r"\frac{1}{2}\text{ L}", r"\frac{1}{2}", "L"),
        (r"2\sqrt{3}\,\mathrm{m}", r"2\sqrt{3}", "m"),
        ("9π cm²", "9π", "cm^2"),
        ("9π m²", "9π", "m^2"),
        ("3 mg", "3", "mg"),
        ("250mL", "250", "mL"),
        ("2 A", "2", "A"),
        ("1.6 × 10^{-19} C", "1.6 * 10^{-19}", "C"),
        (r"58.5\ \text{g mol}^{-1}", "58.5", "g/mol"),
        (r"9.8\ \frac{\text{m}}{\text{s}^2}", "9.8", "m/s^2"),
        ("4 J/(kg K)", "4", "J/K/kg"),
        ("3 meters per second squared", "3", "m/s^2"),
        ("20^\\circ\\text{C}", "20", "°C"),
        (r"x\text{ cm}", "x", "cm"),
        ("7 square units", "7", ""),
        ("7 N m", "7", "N*m"),
        ("7 Nm", "7", "J"),
        ("7 mmHg", "7", "mmHg"),
        ("7 lx", "7", "lx"),
        ("7 A m^2", "7", "A*m^2"),
        (r"7\,\text{m g}", "7", "g*m"),
    ],
)
def test_a_unit_stands_apart(written, value, unit):
    found = split_unit(plain_spelling(written))
    assert found is not None and (found[0].strip(), found[1].shown) == (value, unit)


@pytest.mark.parametrize(
    "written",
    [
        "3mg",
        "2nm",
        "5m",
        "3L",
        r"\frac{3}{2}mg",
        r"\frac{3}{4} L",
        r"2\pi h",
        r"\sqrt{5} L",
        "mg",
        "5x",
        "5 x",
        "5 apples",
        r"\sin 30^\circ",
        "cm",
        "5 m + 3",
        "5 cm of rope",
        "0.5mv^2",
        "2 m g h",
        "4 g t^2",
        "3 A B",
        r"5 m \cdot g",
    ],
)
def test_everything_else_is_a_factor_or_words(written):
    assert split_unit(plain_spelling(written)) is None


@pytest.mark.parametrize(
    ("unit", "worth", "base"),
    [  # CODATA and the SI brochure
        ("km/h", Fraction(5, 18), "m/s"),
        ("inch", Fraction("0.0254"), "m"),
        ("mile", Fraction("1609.344"), "m"),
        ("kWh", 3_600_000, "J"),
        ("N m", 1, "J"),
        ("eV", Fraction("1.602176634e-19"), "J"),
        ("mL", 1, "cm^3"),
        ("L", Fraction(1, 1000), "m^3"),
        ("g/mol", Fraction(1, 1000), "kg/mol"),
        ("kΩ", 1000, "V/A"),
        ("μF", Fraction(1, 10**6), "C/V"),
        ("day", 24, "h"),
        ("kPa", 1000, "N/m^2"),
        ("Hz", 1, "s^-1"),
    ],
)
def test_units_are_worth_what_the_tables_say(unit, worth, base):
    ours, theirs = read_unit(unit), read_unit(base)
    assert ours.dimension == theirs.dimension
    assert Fraction(ours.scale) / Fraction(theirs.scale) == worth


@pytest.mark.parametrize(
    "pair", [("5 cm", "0.05 m"), ("50%", "0.5"), ("30°", r"\pi/6"), ("36 km/h", "10 m/s")]
)
def test_what_is_converted_is_the_same(pair):
    assert equivalent(*pair) and canonical(pair[0]) != canonical(pair[1])


@pytest.mark.parametrize(
    "pair",
    [
        ("5 cm", "5 m"),
        ("5 cm", "5 cm^2"),
        ("300 K", "300 °C"),
        ("5 N", "5 J"),
        ("5 Hz", "5 Bq"),
        ("5 Gy", "5 Sv"),
        ("5 lm", "5 cd"),
    ],
)
def test_other_units_are_other_answers(pair):
    assert not equivalent(*pair) and equivalent(pair[0], pair[0].split()[0])


@pytest.mark.parametrize(
    "unit", ["cm", "m", "mg", "nm", "m/s^2", "°", "%", "°C", "kg*m/s", "s^-1", "μF", "Ω"]
)
@pytest.mark.parametrize("value", ["5", "-1/2", "2*sqrt(3)", "9*π", "x+1"])
def test_a_key_with_a_unit_is_read_back_as_the_two(value, unit):
    if (value, unit) == ("x+1", "%"):  # no text is read so
        return
    key = join_unit(value, read_unit(unit))
    found = split_unit(key)
    assert found is not None and (found[0].strip(), found[1].shown) == (value, unit)
    assert canonical(key) == key


@pytest.mark.parametrize(
    ("text", "value", "noun"),
    [
        ("5 apples", "5", "apple"),
        ("five children", "5", "children"),
        ("3 million people", "3000000", "people"),
        (r"1.8*10^{2} books", r"1.8*10^{2}", "book"),
        ("1 apple", "1", "apple"),
        ("4 red balls", "4", "red ball"),
        ("3 million", "3 million", None),
        ("five below zero", "five below zero", None),
    ],
)
def test_nouns_count_like_units(text, value, noun):
    found, unit = with_unit(text)
    assert found == value and (unit.dimension[0][0] if unit else None) == noun


@pytest.mark.parametrize(
    "text",
    [
        "5 below zero",
        "5 over six",
        "5 less than",
        "5 gross",
        "5 units left",
        "5 choose two",
        "5 squared",
        "5 plus",
        "5 times",
        "5 mod seven",
        "5 apple",
        "5 out of ten",
        "3 root five",
    ],
)
def test_words_that_change_a_number_are_no_nouns(text):
    assert not equivalent(text, "5") and not equivalent(text, "3")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("2 h 45 min", "165 min", True),
        (r"2\text{ h }45\text{ min}", "2.75 h", True),
        ("6 feet 3 inches", "75 in", True),
        ("1 h 2 min 3 s", "3723 s", True),
        ("4 kg 250 g", "4.25 kg", True),
        ("6 ft 3 in", "3 ft 6 in", False),
        ("6 ft 3 in", "6 ft", False),
        ("6 ft 3 in", "6", False),
        ("6 m 3 m", "9 m", False),
        ("6 m 3 s", "6 m", False),
        (r"25^{\circ} \mathrm{C}", "25 °C", True),
        (r"25^{\circ} \mathrm{C}", r"25^{\circ} \mathrm{F}", False),
        (r"2 \text{ k}\Omega", "2000 Ω", True),
    ],
)
def test_a_value_may_have_several_units(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same
