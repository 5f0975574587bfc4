r"""LaTeX, Unicode, code and marks of Markdown and HTML to one plain notation.

    plain_spelling(r"\dfrac{1}{2}\,\text{cm}")  ->  r"\frac{1}{2} cm"
    plain_spelling("**12 345**")                ->  "12345"

Left out: what it says, which answers/keys.py and answers/equivalence.py read, and numbers in words,
for which there is answers/words.py.
"""

import html
import re
import unicodedata

from answers.extract import closing_brace
from answers.units import mark
from answers.words import TRIGGERS, plain_sets, plain_words, without_domain

_COMMANDS = (
    {unicodedata.name(letter).split()[-1].lower(): letter for letter in "αβγδεζηθικμνξπρστφχψω"}
    | {unicodedata.name(letter).split()[-1].capitalize(): letter for letter in "ΓΔΘΞΠΣΦΨΩ"}
    | {
        "lambda": "λ",
        "Lambda": "Λ",
        "varepsilon": "ε",
        "vartheta": "θ",
        "varphi": "φ",
        "hbar": "ħ",
        "ell": "l",
    }
    | {"le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠"}
    | {"lt": "<", "gt": ">", "approx": "≈", "equiv": "≡", "propto": "∝", "in": "∈", "notin": "∉"}
    | dict.fromkeys(("cdot", "times", "cdotp", "bullet", "ast"), "*")
    | {
        "div": "/",
        "pm": "±",
        "infty": "∞",
        "infin": "∞",
        "colon": ":",
        "surd": r"\sqrt",
        "prime": "'",
        "overline": r"\bar",
    }
    | dict.fromkeys(("circ", "degree", "textdegree"), "°")
    | {"celsius": "°C", "textcelsius": "°C", "deg": "deg"}
    | {"cup": "∪", "cap": "∩", "emptyset": "∅", "varnothing": "∅", "subset": "⊂", "subseteq": "⊆"}
    | dict.fromkeys(("setminus", "smallsetminus", "backslash"), r"\setminus ")
    | {letter: rf"\mathbb{{{letter}}}" for letter in "RZNQC"}
    | {"reals": r"\mathbb{R}", "Reals": r"\mathbb{R}", "forall": "∀", "exists": "∃"}
    | {"angle": "∠", "measuredangle": "∠", "sphericalangle": "∠", "triangle": "△", "odot": "⊙", "square": "□"}
    | {"parallel": "∥", "nparallel": "∦", "perp": "⊥", "bot": "⊥", "sim": "∼", "cong": "≅"}
    | dict.fromkeys(("to", "rightarrow", "longrightarrow"), "→")
    | dict.fromkeys(("Rightarrow", "Longrightarrow", "implies"), "⇒")
    | dict.fromkeys(("Leftrightarrow", "Longleftrightarrow", "iff"), "⇔")
    | {"lor": " or ", "vee": " or ", "land": " and ", "wedge": " and ", "lnot": "¬", "neg": "¬"}
    | dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac", "sfrac", "nicefrac"), r"\frac")
    | dict.fromkeys(("dbinom", "tbinom"), r"\binom")
    | {"lbrace": "⦃", "rbrace": "⦄", "langle": "⟨", "rangle": "⟩", "lbrack": "[", "rbrack": "]"}
    | dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|")
    | dict.fromkeys(("dots", "ldots", "cdots"), "...")
    | dict.fromkeys(("left", "right", "middle", "limits", "displaystyle", "textstyle", "rm", "bf", "it"), "")
    | dict.fromkeys(("big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "vec", "hat", "hline"), "")
    | dict.fromkeys(("large", "Large", "LARGE", "huge", "Huge", "small", "normalsize", "tt", "boldmath"), "")
    | dict.fromkeys(("quad", "qquad", "space", "enspace", "thinspace", "newline", "par"), " ")
)
_ESCAPES = (
    {"{": "⦃", "}": "⦄", "|": "∥", "*": "*", "$": ""}
    | dict.fromkeys("()[]!", "")
    | dict.fromkeys(",;:>", " ")
    | {c: c for c in "%&#_"}
)
_SIGNS = str.maketrans(
    dict.fromkeys("−‐‑‒–—﹣", "-")
    | dict.fromkeys("×·⋅∙∗•", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("º˚∘", "°")
    | dict.fromkeys("$€£¥\u200b\u2060\ufeff", "")
    | {"∆": "Δ", "⩽": "≤", "⩾": "≥", "≦": "≤", "≧": "≥", "…": "...", "∶": ":", "。": ".", "、": ","}
    | {letter: rf"\mathbb{{{plain}}}" for letter, plain in zip("ℝℤℕℚℂ", "RZNQC", strict=True)}
    | {
        "∖": r"\setminus ",
        "∨": " or ",
        "∧": " and ",
        "’": "'",
        "′": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "″": "''",
    }
    | {"∡": "∠", "⟶": "→", "⟹": "⇒", "‖": "∥", "≌": "≅", "∽": "∼", "⊿": "△"}
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_SUBSCRIPT = re.compile("[₀-₉ₐ-ₜ]+")
_VULGAR_FRACTION = re.compile("[¼½¾⅐-⅞]")
_ROOT = re.compile(
    r"(?:(?<![\w)}\]])\^\{([0-9]+)\})?([√∛∜])\s*([0-9]+(?:\.[0-9]+)?|[A-Za-zα-ω](?![A-Za-z]))?"
)
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}

_ENTITY = re.compile(r"&(?:[a-z]{2,8}[0-9]{0,2}|#[0-9]{1,6});")
_TAG = re.compile(
    r"<(?:(b|i|u|p|q|s)|(su[pb]))(?: [^<>]*)?>(.*?)</(?:\1|\2)>"
    r"|</?(?:(?:final_)?answer|ans|strong|em|span|div|code|tt|font|mark|small|big|(br)|box(?:ed)?)"
    r"(?: [^<>]*)?/?>",
    re.IGNORECASE | re.DOTALL,
)
_BOLD = re.compile(r"(?<![\w)}\]*])(\*\*|__)(?=[^\s*_])(.*?[^\s*_])\1(?![\w({*])", re.DOTALL)
_COMMAND_NAME = re.compile(r"\\([A-Za-z]+)")
_WRAPPERS = frozenset(
    "text textbf textit textrm textsf texttt textsc textup textnormal mathrm mathbf mathit mathsf mathtt"
    " mathnormal mbox hbox fbox boxed underline emph operatorname bm boldsymbol ensuremath num".split()
)
_WRAPPER = re.compile(
    rf"\\(?:{'|'.join(sorted(_WRAPPERS, key=len, reverse=True))})"
    r"\*?\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_OUTER_WRAPPER = re.compile(r"[\s$]*\\(?:boxed|text(?:bf|it)?|math(?:rm|bf))\s*\{")
_RARE = frozenset(
    "hspace vspace phantom hphantom vphantom tag label color textcolor overline hat overrightarrow vec"
    " widehat overarc wideparen arc overset stackrel bar over choose mathbb Bbb not".split()
)
_INVISIBLE = re.compile(
    r"\\(?:[hv]space|[hv]?phantom|tag|label|(?:text)?color)\*?\s*(?:\[[^\[\]]*\]\s*)?\{[^{}]*\}"
)
_NOT = re.compile(r"\\not\s*=")
_COMMAND = re.compile(r"\\(?:(?:left|right)\s*\.|([A-Za-z]+)|(\s|[^A-Za-z]))")
_NO_SPACE = re.compile(r"(?<=[0-9])(?:,|\{,\})?\s*(?:\\!\s*)+(?=[0-9]{3}(?![0-9]))")  # 1,\!000
_DOUBLED = re.compile(
    r"\\\\(?=(?:[dt]?frac|sqrt|text|math|pi|cdot|times|circ|left|right|infty|angle)(?![a-z]))"
)
_DRAWN_OVER = re.compile(
    r"\\(?:overline(?!\s*\{\s*[A-Za-z]\s*\})|hat|(overrightarrow|vec)"
    r"|(widehat|overarc|wideparen|arc|(?:overset|stackrel)\s*\{\s*\\frown\s*\}))\s*\{\s*([A-Za-z]+)\s*\}"
)
_PERIOD = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*)\\(?:overline|bar)\s*\{([0-9]{1,9})\}")
_OVER = re.compile(r"\{([^{}]*)\\(over|choose)(?![A-Za-z])([^{}]*)\}")
_BLACKBOARD = re.compile(r"\\(?:mathbb|Bbb)\s*([A-Z])")
_ENVIRONMENT = re.compile(
    r"\\begin ?\{(array|[pbB]?matrix|smallmatrix|cases|align(?:ed)?|gather(?:ed)?|split|equation)\*?\}"
    r"(.*?)\\end ?\{\1\*?\}",
    re.DOTALL,
)
_COLUMNS = re.compile(r"\s*(?:\[[a-z]\])?\s*\{[lcr| ]*\}")
_LINE_BREAK = re.compile(r"\s*\\\\(?:\[[0-9.]+ ?[a-z]+\])?\s*")
_SYSTEM = re.compile(r"⦃ ?\\begin\{matrix\}([^&]*)\\end\{matrix\} ?\Z")
_IN_BRACKETS = re.compile(r"[(\[] ?(\\begin\{matrix\}.*?\\end\{matrix\}) ?[)\]]", re.DOTALL)
_ELLIPSIS = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]*?)([0-9]{1,4}?)\3{2,}\.\.\.")
_EXACT = (
    {"sqrt": r"\sqrt", "cbrt": r"\sqrt[3]", "pi": "π", "infty": "∞", "infinity": "∞"}
    | {"alpha": "α", "beta": "β", "gamma": "γ", "theta": "θ", "lambda": "λ", "omega": "ω"}
    | {"<=": "≤", ">=": "≥", "=<": "≤", "==": "=", "!=": "≠", "->": "→", "{,}": ""}
)
_PLAIN = re.compile(
    r"[A-Z](?<![A-Za-z\\].)[A-Za-z]+"
    + "".join(rf"|{word}(?<![A-Za-z\\]{word})(?![A-Za-z])" for word in filter(str.isalpha, _EXACT))
    + r"|[<>]=|=<(?![^<>]*>)|==|!=(?<![0-9)]!=)|->"
    r"|\^\s*(?:[°']|\{\s*(?:[°o]|'+)\s*\}|o(?![A-Za-z0-9]))"
    r"|\{,\}(?<=[0-9]\{,\})(?=[0-9]{3}(?![0-9]))"
    r"|_\{([A-Za-z0-9]+)\}(?![A-Za-z0-9])|_(?:[0-9]|\{[0-9]+\})(?=[A-Za-z])"
)
_TIMES = re.compile(r"(?<=[0-9]) ?[xX] ?(?=10\^)")  # 6.02 x 10^23
_MIXED = re.compile(r"(?<![0-9./^_])([0-9]+) ([0-9]+) ?/ ?([0-9]+)(?![0-9.])")  # 1 1/2
_ROOT_OF_BRACKETS = re.compile(r"(\\sqrt\[[0-9]+\]) ?\(([^()]*)\)")
_VECTOR = re.compile(r"(.*= ?)?<([^<>=]*,[^<>=]*)>")
_GROUPED = re.compile(
    r"(?<![0-9.,])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?![0-9]|,[0-9])"  # 10,00,000
    r"|(?<![0-9A-Za-z.,/^_'])(?<![0-9] )[1-9][0-9]{0,2}(?:([ '_])[0-9]{3})(?:\1[0-9]{3})*(?![0-9]|\1[0-9])"
    r"|(?<![0-9.,])[0-9]+\.[0-9]{3}(?: [0-9]{3})+(?! ?[0-9])"
)
_SOME_GROUPED = re.compile(r"[0-9][ ,'_][0-9]{2}")
_OPEN, _CLOSE = "([{⦃⟨", ")]}⦄⟩"
_SIMILAR = re.compile(r"(?<=[A-Z]{3}) ?~ ?(?=(?:△|\\triangle)? ?[A-Z]{3})")
_PARALLEL = re.compile(r"(?<=[A-Z]{2}) ?(?:\|\||//) ?(?=[A-Z]{2})")
_GEOMETRIC = re.compile("[∠Δ∥∦⊥≅∼]")
_ANGLE = re.compile(r"∠ ?([A-Z])([A-Z])([A-Z])(?![A-Za-z])")
_TRIANGLE = re.compile(r"Δ ?(?=[A-Z]{3}(?![A-Za-z]))")
_SYMMETRIC = re.compile(r"([∠△⌒]?) ?([A-Za-z]{1,4}) ?([∥∦⊥≅∼]) ?\1 ?([A-Za-z]{1,4})")
_WHOLE = {"{}": "∅", "⦃⦄": "∅", "⦃ ⦄": "∅", "DNE": "does not exist"}

_CURRENCIES = {r"\$": "dollars", "€": "euros", "£": "GBP", "¥": "yen", "₹": "rupees"}
_AMOUNT = r"(-?[0-9](?:(?:[0-9.,]|\{,\}|\\[,!])*[0-9])?)"
_CURRENCY = re.compile(rf"(\\\$|[€£¥₹]) ?{_AMOUNT}(?! ?[A-Za-z])|(?<![.,^_]){_AMOUNT} ?([€£¥₹])")

_PHRASE = re.compile(
    r"^(?:(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?answer ?(?:is ?:?|:|=) ?)?"
    r"(?:(?:option|choice) (?=\(?[A-Z]\b)"
    r"|(?:the )?(?:correct |right |best )?(?:answer|option|choice) (?:is:? )?(?=\(?[A-Z]\)?\Z))?",
    re.IGNORECASE,
)


def plain_spelling(text: str) -> str:
    """One spelling for each sign; marks, wrappers, spacing, closing punctuation and opening phrases
    removed; digits in one piece; words in lower case."""
    if "&" in text and ";" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if "`" in text or "**" in text or "__" in text or ("<" in text and ">" in text):
        text = _without_marks(text)
    if not text.isascii():
        text = _from_unicode(_CURRENCY.sub(_money, text))
    if "\\" in text:
        text = _from_latex(_CURRENCY.sub(_money, text) if r"\$" in text else text)
    if "~" in text:
        text = _SIMILAR.sub("∼", text).replace("~", " ")
    text = text.replace("$", "")
    if "10^" in text:
        text = _TIMES.sub("*", text)
    if "..." in text:
        text = _ELLIPSIS.sub(_repeating, text)
    text = " ".join(_PLAIN.sub(_plain_word, text).strip("* \t\n").split()).rstrip(" .,;:")
    if " " in text or ":" in text:
        words = text.lower()
        if "wer" in words or "opt" in words or "cho" in words:  # answer, option, choice
            text = _PHRASE.sub("", text, count=1)
            words = text.lower()
        if "/" in text:
            text = _MIXED.sub(_mixed_number, text)
        if not TRIGGERS.isdisjoint(words.split()):
            text = plain_words(text)
    if not text.isalnum() and _SOME_GROUPED.search(text):
        text = _GROUPED.sub(_join_groups, text)
    return _structured(text) if text and not text.isalnum() else _WHOLE.get(text, text)


def _money(match: re.Match) -> str:
    sign, amount, same_amount, sign_behind = match.groups()
    return f"{amount or same_amount}⟦{_CURRENCIES[sign or sign_behind]}⟧"


def _structured(text: str) -> str:
    """Sets, roots, angles, vectors and quotes in one form each."""
    if "\\" in text:
        text = without_domain(plain_sets(text)) if r"\mathbb" in text else text
        text = _ROOT_OF_BRACKETS.sub(r"\1{\2}", text) if r"\sqrt[" in text else text
    if "||" in text or "//" in text:
        text = _PARALLEL.sub("∥", text)
    if not text.isascii():
        text = without_domain(plain_sets(text)) if "∈" in text or "⦃" in text else text
        text = _geometry(text) if _GEOMETRIC.search(text) else text
    if text[-1] == ">" and (vector := _VECTOR.fullmatch(text)):
        return f"{vector[1] or ''}⟨{vector[2]}⟩"
    if text[-1] == '"' and text[0] == '"' and text.count('"') == 2:
        text = text[1:-1]
    return _WHOLE.get(text, text)


def _geometry(text: str) -> str:
    """Angle CBA is angle ABC, CD ∥ AB is AB ∥ CD."""
    text = _ANGLE.sub(_in_order, _TRIANGLE.sub("△", text))
    if symmetric := _SYMMETRIC.fullmatch(text):
        sign, first, relation, second = symmetric.groups()
        return relation.join(sorted((sign + first, sign + second)))
    return text


def _without_marks(text: str) -> str:
    text, before = text.replace("`", ""), ""
    while text != before:  # nested
        before, text = text, _BOLD.sub(r"\2", _TAG.sub(_untagged, text) if "<" in text else text)
    return text.strip("* \t\n").replace("**", "^")


def _untagged(match: re.Match) -> str:
    _, script, inside, line_break = match.groups("")
    if not script:
        return " " if line_break else inside
    return f"^{{{inside}}}" if script == "sup" else f"_{{{inside}}}"


def _from_unicode(text: str) -> str:
    """NFKC, but for what it would misread: 5² as 52, 1½ as 11/2."""
    text = _SUPERSCRIPT.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
    text = _SUBSCRIPT.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
    text = _ROOT.sub(_root_command, _VULGAR_FRACTION.sub(_fraction_command, text))
    return unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)


def _fraction_command(match: re.Match) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _root_command(match: re.Match) -> str:
    degree, sign, inside = match.groups()
    return (rf"\sqrt[{degree}]" if degree else _ROOTS[sign]) + (f"{{{inside}}}" if inside else " ")


def _from_latex(text: str) -> str:
    if r"\\" in text and r"\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _without_outer_wrapper(text)
    names = _COMMAND_NAME.findall(text)
    if not _WRAPPERS.isdisjoint(names):
        found = 1
        while found:  # nested
            text, found = _WRAPPER.subn(_unwrapped, text)
    if not _RARE.isdisjoint(names):
        text = _OVER.sub(_fraction_over, _PERIOD.sub(_repeating, _INVISIBLE.sub("", text)))
        text = _DRAWN_OVER.sub(_letters, _BLACKBOARD.sub(r"\\mathbb{\1}", _NOT.sub("≠", text)))
    if r"\!" in text:
        text = _NO_SPACE.sub("", text)
    text = _COMMAND.sub(_plain_command, text)
    if r"\begin" in text:
        text = _SYSTEM.sub(r"\1", _IN_BRACKETS.sub(r"\1", _ENVIRONMENT.sub(_rows, text)))
    if r"\begin" in text:
        return text
    return _LINE_BREAK.sub(", ", text) if r"\\" in text else text


def _without_outer_wrapper(text: str) -> str:
    r"""What stands within \boxed{\frac{\sqrt{3}}{2}}; wrappers with fewer braces in them are taken off
    wherever they stand."""
    if text.count("{") > 1 and (match := _OUTER_WRAPPER.match(text)):
        inside = text.rstrip(" $.")
        if closing_brace(inside, match.end(), len(inside)) == len(inside) - 1:
            return inside[match.end() : -1]
    return text


def _unwrapped(match: re.Match) -> str:
    """What a wrapper holds. A unit behind a value stays marked as one."""
    before = match.string[: match.start()].rstrip(" \\,;:!~")
    behind_value = before[-1:].isalnum() or before[-1:] in ("}", ")", "/", "*", "°")
    return behind_value and mark(match[1]) or f" {match[1]} "


def _plain_command(match: re.Match) -> str:
    name = match[1]
    if name:
        return _COMMANDS.get(name, match[0])
    sign = match[2]
    return _ESCAPES.get(sign, " " if sign.isspace() else match[0]) if sign else ""


def _letters(match: re.Match) -> str:
    vector, arc, letters = match.groups()
    return ("→" if vector else "⌒" if arc else "") * (len(letters) > 1) + letters


def _fraction_over(match: re.Match) -> str:
    return rf"\{'binom' if match[2] == 'choose' else 'frac'}{{{match[1]}}}{{{match[3]}}}"


def _rows(match: re.Match) -> str:
    r"""Every matrix as \begin{matrix}1&2\\3&4\end{matrix}; a system of equations as a list."""
    name, body = match.groups()
    rows = [
        row.strip() for row in _LINE_BREAK.split(_COLUMNS.sub("", body, count=1) if name == "array" else body)
    ]
    rows = rows if rows[-1] else rows[:-1]
    if "matrix" in name or name == "array" or (name == "cases" and "&" in body):
        name = "cases" if name == "cases" else "matrix"
        cells = ["&".join(cell.strip() for cell in row.split("&")) for row in rows]
        return rf"\begin{{{name}}}" + r"\\".join(cells) + rf"\end{{{name}}}"
    return ", ".join(row.replace("&", "").rstrip(" ,") for row in rows).replace(", =", " =")


def _plain_word(match: re.Match) -> str:
    """Yes and YES are yes, Square is square; AB, ABC and ABCD stay the names of points."""
    text = match[0]
    if text[0] == "_":  # H_2O as H_2 O
        return "_" + (match[1] or text.strip("_{}") + " ")
    if text[0] == "^":  # 60^o, but x^o is a power
        is_power = "o" in text and not match.string[: match.start()].rstrip()[-1:].isdigit()
        return text if is_power else "'" * text.count("'") or "°"
    if not text.isalpha() or text.islower():
        return _EXACT[text]
    word = text.lower()
    is_word = (len(text) > 2 and text.istitle()) or word in ("yes", "no", "true", "false", "none")
    return _EXACT.get(word, word) if is_word else text


def _mixed_number(match: re.Match) -> str:
    whole, above, below = match.groups()
    is_group = len(above) == 3 and not 0 < int(above) < int(below)  # 12 345/2
    return match[0] if is_group else rf"{whole}\frac{{{above}}}{{{below}}}"


def _join_groups(match: re.Match) -> str:
    """12 345, 1'000 and 1,000 in one piece, but (1,000) is a pair."""
    text = match[0]
    if "," in text:
        before = match.string[: match.start()]
        inside_brackets = sum(map(before.count, _OPEN)) > sum(map(before.count, _CLOSE))
        return text if inside_brackets else text.replace(",", "")
    return text.replace(match[1] or " ", "")


def _in_order(match: re.Match) -> str:
    first, vertex, last = match.groups()
    return "∠" + (first + vertex + last if first <= last else last + vertex + first)


def _repeating(match: re.Match) -> str:
    """0.1666... is 1/6: (16 - 1)/90."""
    whole, decimals, period = match.groups()
    above = int(whole + decimals + period) - int(whole + decimals or 0)
    return rf"\frac{{{above}}}{{{(10 ** len(period) - 1) * 10 ** len(decimals)}}}"
