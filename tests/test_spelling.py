"""Marks, digits in groups, Unicode, code and LaTeX come to one plain notation."""

import pytest
from answers_made import ALL, WRITTEN

from answers import canonical, equivalent
from answers.spelling import plain_spelling

SPELLED = {
    "marks": [
        ("`-17`", "-17"),
        ("```x = 3```", "x = 3"),
        ("__91__", "91"),
        ("**-2.5**", "-2.5"),
        ("***8***", "8"),
        ("**B.** 31", "B. 31"),
        ("**Answer:** 19", "19"),
        ("<b>7/3</b>", "7/3"),
        ("<strong><i>7</i></strong>", "7"),
        ('<span style="color:red">6</span>', "6"),
        ("<answer>44</answer>", "44"),
        ("x<sup>3</sup>", "x^{3}"),
        ("5<br>6", "5 6"),
        ("y &le; 4", "y ≤ 4"),
        ('"parallel"', "parallel"),
        ("$$21$$.", "21"),
        ("a__b", "a__b"),
        ("x < b > y", "x < b > y"),
        ("p<q", "p<q"),
    ],
    "digits in groups": [
        ("81 092", "81092"),
        ("3 407 115", "3407115"),
        (r"9\;204", "9204"),
        (r"9\,204", "9204"),
        (r"9\ 204", "9204"),
        ("9'204", "9204"),
        ("9’204", "9204"),
        ("9_204", "9204"),
        (r"61,\! 008", "61008"),
        (r"61{,}008", "61008"),
        ("61,008.25", "61008.25"),
        ("7,31,008", "731008"),
        ("45,00,000", "4500000"),
        ("3,45,00,000", "34500000"),
        ("(6{,}000, 2)", "(6000, 2)"),
        ("(6,000)", "(6,000)"),
        ("600, 700", "600, 700"),
        ("6,00", "6,00"),
        ("61 08", "61 08"),
        ("6108 225", "6108 225"),
        ("6 108 2", "6 108 2"),
        ("0.000 025", "0.000025"),
        ("4 3/5", r"4\frac{3}{5}"),
        ("71 250/3", "71250/3"),
    ],
    "code and Unicode": [
        ("t**4", "t^4"),
        ("∛54", r"\sqrt[3]{54}"),
        ("∜(a+1)", r"\sqrt[4]{a+1}"),
        ("³√10", r"\sqrt[3]{10}"),
        ("cbrt(9)", r"\sqrt[3]{9}"),
        ("√27", r"\sqrt{27}"),
        (r"\surd 11", r"\sqrt 11"),
        ("35^o", "35°"),
        ("35^{o}", "35°"),
        (r"35^\text{o}", "35°"),
        ("x^o", "x^o"),
        (r"f^{\prime}(2)", "f'(2)"),
        ("k != 9", "k ≠ 9"),
        ("4!=24", "4!=24"),  # a factorial
        ("k =< 9", "k ≤ 9"),
        ("k <= 9", "k ≤ 9"),
        ("k == 9", "k = 9"),
        (r"k \geqslant 9", "k ≥ 9"),
        (r"k \not= 9", "k ≠ 9"),
        (r"p \lor q", "p or q"),
        (r"p ∧ q", "p and q"),
        (r"\R \smallsetminus \{6\}", r"\mathbb{R}\setminus⦃6⦄"),
        ("ℤ", r"\mathbb{Z}"),
        ("bⁿ", "b^{n}"),
        ("<4,-9>", "⟨4,-9⟩"),
        ("w=<4,-9>", "w=⟨4,-9⟩"),
    ],
    "geometry": [
        (r"KL \parallel MN", "KL∥MN"),
        ("MN // KL", "KL∥MN"),
        (r"n \perp l", "l⊥n"),
        (r"\triangle KLM \cong \triangle PQR", "△KLM≅△PQR"),
        ("△PQR ~ △KLM", "△KLM∼△PQR"),
        (r"\Delta KLM", "△KLM"),
        (r"\measuredangle MLK", "∠KLM"),
        ("∠ LKM", "∠LKM"),
        (r"\overset{\frown}{KL}", "⌒KL"),
        (r"\widehat{KL}", "⌒KL"),
        (r"\overrightarrow{KL}", "→KL"),
        (r"\vec{u}", "u"),
        (r"\overline{KL}", "KL"),
    ],
    "LaTeX": [
        (r"\textbf{\textit{13}}", "13"),
        (r"\overline{z}", r"\bar{z}"),  # a conjugate, a complement
        ("H_2O", "H_2 O"),
        ("H₂O", "H_2 O"),
        (r"\log_{2}x", r"\log_2 x"),
        ("v_max", "v_max"),
        ("6.02 x 10^23", "6.02*10^23"),
        ("2x 10", "2x 10"),
        (r"\textbf{13\text{ km}}", "13⟦km⟧"),
        (r"\color{blue}{13}", "{13}"),
        (r"13 \hspace{1em} \tag{2}", "13"),
        (r"\phantom{0}13", "13"),
        (r"\bigl(1, 2\bigr)", "(1, 2)"),
        (r"\\frac{9}{4}", r"\frac{9}{4}"),
        (r"{7 \choose 3}", r"\binom{7 }{ 3}"),
        (r"\begin{bmatrix} 5 & 6 \\ 7 & 8 \\ \end{bmatrix}", r"\begin{matrix}5&6\\7&8\end{matrix}"),
        (r"\left(\begin{array}{c|c}5&6\\7&8\end{array}\right)", r"\begin{matrix}5&6\\7&8\end{matrix}"),
        (r"\begin{cases} x = 2 \\ y = 5 \end{cases}", "x = 2, y = 5"),
        (r"\left\{\begin{array}{l} x = 2 \\ y = 5 \end{array}\right.", "x = 2, y = 5"),
        (r"\begin{aligned} x &= 2+3 \\ &= 5 \end{aligned}", "x = 2+3 = 5"),
        (r"x = 2 \\ y = 5", "x = 2, y = 5"),
        (r"\{\}", "∅"),
        (r"\{t \mid t > 8\}", "t > 8"),
        (r"t \in \mathbb{R}, t \neq 8", r"\mathbb{R}\setminus⦃8⦄"),
        (r"\mathbb R - \{8, 1\}", r"\mathbb{R}\setminus⦃1, 8⦄"),
        (r"5m,\ m \in \mathbb{Z}", "5m"),
    ],
}


@pytest.mark.parametrize("kind", SPELLED)
def test_a_text_is_spelled_plainly(kind):
    assert {text: plain_spelling(text) for text, _ in SPELLED[kind]} == dict(SPELLED[kind])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("__640__", "<b>640</b>", True),
        ("__640__", "64", False),
        ("<b>4</b>", "4b", False),
        ("2**5", "32", True),
        ("2**5", "25", False),
        ("∛216", "6", True),
        ("∛216", "√216", False),
        ("27 816", "27,816", True),
        ("27 816", "27, 816", False),
        ("27 816", "27.816", False),
        ("4,00,000", "400000", True),
        ("4,00,000", "4, 0, 0", False),
        ("400, 000", "400000", False),
        (r"\angle PQR", r"\angle RQP", True),
        (r"\angle PQR", r"\angle QPR", False),
        (r"PQ \parallel RS", "RS∥PQ", True),
        (r"PQ \parallel RS", r"PQ \perp RS", False),
        (r"\triangle PQR \sim \triangle XYZ", r"\triangle PQR \cong \triangle XYZ", False),
        (r"\begin{bmatrix}1&2\\3&4\\\end{bmatrix}", r"\begin{smallmatrix}1&2\\3&4\end{smallmatrix}", True),
        (r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{bmatrix}1&3\\2&4\end{bmatrix}", False),
        (r"\begin{cases}x=2\\y=5\end{cases}", "y=5, x=2", True),
        (r"\widehat{PQ}", r"\overline{PQ}", False),
        ("x != 6", "x = 6", False),
    ],
)
def test_answers_are_compared_as_they_are_spelled(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


def test_what_is_spelled_plainly_keeps_its_key():
    assert [text for text in ALL + WRITTEN if canonical(plain_spelling(text)) != canonical(text)] == []
