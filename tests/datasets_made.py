"""Small parquet files in the schemas of published data sets: true columns and types, drawn
pictures.

    path = write_mathvista(folder)      a file of a few rows; `WRITERS` has them all by name

Needs pyarrow. The rows are made up; answers of open questions stand nowhere else in their row.
"""

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image, ImageDraw

TEXT, NUMBER, WHOLE = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
TEXTS = pyarrow.list_(TEXT)
PICTURE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", TEXT)])
VERSIONS = (
    "Text Dominant",
    "Text Lite",
    "Vision Intensive",
    "Vision Dominant",
    "Vision Only",
)  # of MathVerse


def picture(n: int, kind: str = "PNG", size: tuple[int, int] = (72, 60), mode: str = "RGB") -> dict:
    """A triangle of its own on white, as the hub stores a picture."""
    image = Image.new("RGB", size, "white")
    width, height = size
    corners = [(6, height - 6), (width - 8 - 5 * (n % 5), height - 6), (width // 3 + 3 * n % 20, 6 + n % 9)]
    ImageDraw.Draw(image).polygon(corners, outline=(30, 30, 30), fill=(220, 40 * n % 200, 20 * n % 230))
    file = io.BytesIO()
    image.convert(mode).save(file, kind)
    return {"bytes": file.getvalue(), "path": f"{n}.{kind.lower()}"}


def write(folder: Path, name: str, schema: list[tuple], rows: list[dict], row_group_size: int = 3) -> Path:
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(schema))
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)
    return path


PROBLEMS = [("images", pyarrow.list_(PICTURE)), ("problem", TEXT), ("answer", TEXT)]


def write_geometry3k(folder: Path) -> Path:
    """hiyouga/geometry3k"""
    answers = ["48731", r"\frac{739}{2}", r"6 \sqrt { 7193 }", "91.37", "5501", "6607"]
    rows = [
        {
            "images": [picture(n)],
            "problem": f"<image>Find side {'abcdef'[n]} of the triangle.",
            "answer": answer,
        }
        for n, answer in enumerate(answers)
    ]
    return write(folder, "geometry3k.parquet", PROBLEMS, rows)


def write_geoqa(folder: Path) -> Path:
    """WaltonFuture/GEOQA_R1V_Train_8K"""
    rows = [
        {
            "images": [picture(n, "JPEG")],
            "problem": f"In the figure, what is angle {n}?",
            "answer": f"{1411 + n}°",
        }
        for n in range(6)
    ]
    return write(folder, "geoqa.parquet", PROBLEMS, rows)


def write_geoqa_r1v(folder: Path) -> Path:
    """leonardPKU/GEOQA_R1V_Train_8K"""
    rows = [
        {"image": picture(n), "problem": f"Measure angle {n}.", "solution": f"<answer> {1511 + n}° </answer>"}
        for n in range(6)
    ]
    return write(
        folder, "geoqa_r1v.parquet", [("image", PICTURE), ("problem", TEXT), ("solution", TEXT)], rows
    )


def write_mmr1(folder: Path) -> Path:
    """MMR1/MMR1-Math-RL-Data-v0; a picture in the middle, and a row of two"""
    rows = [
        {
            "images": [picture(n, "JPEG", (90, 60))],
            "problem": f"<image>\nHow wide is it, plus {n}?",
            "answer": f"{7723 + n}",
        }
        for n in range(4)
    ]
    rows.append(
        {"images": [picture(7)], "problem": "Look at <image> and count its corners.", "answer": "9973"}
    )
    both = "First <image> then <image>: how do their areas differ?"
    rows.append({"images": [picture(8), picture(9, size=(120, 60))], "problem": both, "answer": "8887"})
    return write(folder, "mmr1.parquet", PROBLEMS, rows)


def write_synthetic(folder: Path) -> Path:
    """WaltonFuture/geometry3k-in-context-synthesizing and its five siblings: the answers are
    pseudo-labels"""
    rows = [
        {"images": [picture(n)], "problem": f"<image>What is the area of shape {n}?", "answer": f"{3301 + n}"}
        for n in range(5)
    ]
    return write(folder, "geometry3k-direct-synthesizing.parquet", PROBLEMS, rows)


def write_mathvista(folder: Path) -> Path:
    """AI4Math/MathVista: options of a choice question, a whole number, a decimal with its
    precision, a list"""
    metadata = pyarrow.struct(
        [("category", TEXT), ("context", TEXT), ("grade", TEXT), ("img_height", WHOLE), ("img_width", WHOLE)]
        + [("language", TEXT), ("skills", TEXTS), ("source", TEXT), ("split", TEXT), ("task", TEXT)]
    )
    schema = [
        ("pid", TEXT),
        ("question", TEXT),
        ("image", TEXT),
        ("decoded_image", PICTURE),
        ("choices", TEXTS),
        ("unit", TEXT),
        ("precision", NUMBER),
        ("answer", TEXT),
        ("question_type", TEXT),
        ("answer_type", TEXT),
        ("metadata", metadata),
        ("query", TEXT),
    ]
    asked = [
        (
            "Which shape is it?",
            ["square", "triangle", "circle"],
            None,
            None,
            "triangle",
            "multi_choice",
            "text",
        ),
        ("How many corners are there?", None, None, None, "7333", "free_form", "integer"),
        ("How long is the left side?", None, "cm", 1.0, "41.7", "free_form", "float"),
        ("How high is it?", None, None, 2.0, "38.57", "free_form", "float"),
        ("Where is the top?", None, None, None, "[4421, 5531]", "free_form", "list"),
        ("Is it red?", ["Yes", "No"], None, None, "Yes", "multi_choice", "text"),
    ]
    rows = []
    for n, (question, choices, unit, precision, answer, question_type, answer_type) in enumerate(asked, 1):
        letters = "\n".join(f"({chr(65 + i)}) {choice}" for i, choice in enumerate(choices or ()))
        hint = "Please answer the question and provide the " + (
            "correct option letter" if choices else "final value"
        )
        rows.append(
            {
                "pid": str(n),
                "question": question,
                "image": f"images/{n}.jpg",
                "decoded_image": picture(n, "JPEG"),
                "choices": choices,
                "unit": unit,
                "precision": precision,
                "answer": answer,
                "question_type": question_type,
                "answer_type": answer_type,
                "query": f"Hint: {hint} at the end.\nQuestion: {question}"
                + (f"\nChoices:\n{letters}" if choices else ""),
                "metadata": {
                    "category": "math-targeted-vqa",
                    "context": "geometry diagram",
                    "grade": "high school",
                    "img_height": 60,
                    "img_width": 72,
                    "language": "english",
                    "skills": ["geometry reasoning"],
                    "source": "made",
                    "split": "testmini",
                    "task": "geometry problem solving",
                },
            }
        )
    return write(folder, "mathvista-testmini.parquet", schema, rows)


def write_mathverse(folder: Path) -> Path:
    """AI4Math/MathVerse: two problems in five versions; in the last the question is in the picture
    alone"""
    metadata = pyarrow.struct([("split", TEXT), ("source", TEXT), ("subject", TEXT), ("subfield", TEXT)])
    schema = [
        ("sample_index", TEXT),
        ("problem_index", TEXT),
        ("problem_version", TEXT),
        ("question", TEXT),
        ("image", PICTURE),
        ("answer", TEXT),
        ("question_type", TEXT),
        ("metadata", metadata),
        ("query_wo", TEXT),
        ("query_cot", TEXT),
        ("question_for_eval", TEXT),
    ]
    asked = [
        ("As shown, find angle C. ( )\nChoices:\nA:145°\nB:140°\nC:135°\nD:130°", "A", "multi-choice"),
        ("As shown, how long is AB?", "6173", "free-form"),
    ]
    rows = []
    for problem, (question, answer, question_type) in enumerate(asked, 1):
        for version in VERSIONS:
            shown = "" if version == "Vision Only" else question
            begin = (
                f"According to the question shown in the image, {{}}{shown}"
                if not shown
                else f"{{}}\nQuestion: {shown}"
            )
            rows.append(
                {
                    "sample_index": str(len(rows) + 1),
                    "problem_index": str(problem),
                    "problem_version": version,
                    "question": shown,
                    "image": picture(len(rows)),
                    "answer": answer,
                    "question_type": question_type,
                    "metadata": {
                        "split": "testmini",
                        "source": "made",
                        "subject": "Plane Geometry",
                        "subfield": "Angle",
                    },
                    "query_wo": begin.format("please directly answer the question."),
                    "query_cot": begin.format(
                        "please first conduct reasoning, and then answer the question."
                    ),
                    "question_for_eval": question,
                }
            )
    return write(folder, "mathverse-testmini.parquet", schema, rows)


def write_mathvision(folder: Path) -> Path:
    """MathLLMs/MathVision: lettered options, open answers, and tags for parts of one picture"""
    schema = [
        ("id", TEXT),
        ("question", TEXT),
        ("options", TEXTS),
        ("image", TEXT),
        ("decoded_image", PICTURE),
        ("answer", TEXT),
        ("solution", TEXT),
        ("level", WHOLE),
        ("subject", TEXT),
    ]
    asked = [
        (
            "Which of the pieces fits?\n<image1>",
            ["A", "B", "C", "D", "E"],
            "B",
            None,
            1,
            "transformation geometry",
        ),
        (
            "<image1>\nHow long is the path?",
            [],
            "2749",
            "It is the sum, 2749.",
            3,
            "metric geometry - length",
        ),
        ("What are <image1> and <image2> together?", ["3", "4", "5"], "C", None, 2, "arithmetic"),
        ("How many triangles does <image1> hold? Count <image1> twice.", [], "3169", "", 5, "counting"),
        ("<image1> What is x?", [], "4567", None, 4, "algebra"),
    ]
    rows = [
        {
            "id": str(n),
            "question": question,
            "options": options,
            "image": f"images/{n}.jpg",
            "decoded_image": picture(n, "JPEG"),
            "answer": answer,
            "solution": solution,
            "level": level,
            "subject": subject,
        }
        for n, (question, options, answer, solution, level, subject) in enumerate(asked, 1)
    ]
    return write(folder, "mathvision-test.parquet", schema, rows)


def write_wemath(folder: Path) -> Path:
    """We-Math/We-Math: composites of two and of three steps; the parts of a composite share its
    ID"""
    schema = [
        ("ID", TEXT),
        ("split", TEXT),
        ("knowledge concept", TEXT),
        ("question", TEXT),
        ("option", TEXT),
        ("answer", TEXT),
        ("image_path", PICTURE),
        ("key", TEXT),
        ("question number", WHOLE),
        ("knowledge concept description", TEXT),
    ]
    rows = []
    for steps, composite in ((2, "1"), (3, "2"), (2, "3")):
        for part in [*range(1, steps + 1), "multi"]:
            n = len(rows) + 1
            rows.append(
                {
                    "ID": composite,
                    "split": "testmini",
                    "knowledge concept": "Angles and Length",
                    "question": f"As shown in the figure, what is step {part} of {composite}?",
                    "option": f"A. {n} cm; B. {n + 1} cm; C. {n + 2} cm; D. No correct answer",
                    "answer": "ABCD"[n % 4],
                    "image_path": picture(n),
                    "key": f"{steps}steps_{part}",
                    "question number": n,
                    "knowledge concept description": "Angles: what lies between two rays.",
                }
            )
    return write(folder, "wemath-testmini.parquet", schema, rows)


def write_chartqa(folder: Path) -> Path:
    """HuggingFaceM4/ChartQA; 0 is human and 1 machine"""
    schema = [("image", PICTURE), ("query", TEXT), ("label", TEXTS), ("human_or_machine", WHOLE)]
    rows = [
        {"image": picture(n), "query": f"What is bar {n}?", "label": [label], "human_or_machine": n % 2}
        for n, label in enumerate(["7321", "23.5", "Yes", "Nigeria", "61%", "2017"])
    ]
    return write(folder, "chartqa.parquet", schema, rows)


WRITERS = {
    "geometry3k": write_geometry3k,
    "geoqa": write_geoqa,
    "geoqa_r1v": write_geoqa_r1v,
    "mmr1": write_mmr1,
    "synthetic": write_synthetic,
    "mathvista": write_mathvista,
    "mathverse": write_mathverse,
    "mathvision": write_mathvision,
    "wemath": write_wemath,
    "chartqa": write_chartqa,
}
