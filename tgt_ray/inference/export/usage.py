"""Lines of Python for the cards of graphs, which take arrays."""

from __future__ import annotations

from tgt_ray.inference.export.base import Student
from tgt_ray.inference.export.traced import LABELS_FILE
from tgt_ray.inference.students import LoadedRetriever
from tgt_ray.training.files import TOKENIZER_FILE


def prepared_lines(student: Student) -> str:
    """Return lines of Python that make `inputs` for a graph, for the card; they need NumPy and one more library."""
    if student.modality == "image":
        channels, height, width = student.input_shape
        mode = "L" if channels == 1 else "RGB"
        return (
            "import json, numpy as np\nfrom PIL import Image, ImageOps\n"
            "pictures = [ImageOps.exif_transpose(Image.open(each)) for each in INPUTS]\n"
            'assert not any(each.mode[0] in "IF" for each in pictures), "more than 8 bits a channel"\n'
            'papers = [Image.new("RGBA", each.size, "white") for each in pictures]\n'
            'pictures = [Image.alpha_composite(*each) for each in zip(papers, [p.convert("RGBA") for p in pictures])]\n'
            f'pixels = [np.asarray(ImageOps.fit(each.convert("{mode}"), ({width}, {height}))) for each in pictures]\n'
            f"inputs = np.stack(pixels).reshape(-1, {height}, {width}, {channels}).transpose(0, 3, 1, 2).copy()"
        )
    return (
        "import json, numpy as np\nfrom tokenizers import Tokenizer\n"
        f'encoded = Tokenizer.from_file("FOLDER/{TOKENIZER_FILE}").encode_batch(INPUTS)\n'
        "inputs = np.array([each.ids for each in encoded])"
    )


def said_lines(student: Student, found: str) -> str:
    """Return a line of Python that prints what a graph has found, for the card.

    - found: an expression for its scores, or of a student of retrieval its embeddings
    """
    if isinstance(student, LoadedRetriever):
        return f"print({found}.shape)  # embeddings of queries, to be compared with those in documents.parquet"
    return f'print([json.load(open("FOLDER/{LABELS_FILE}"))["classes"][best] for best in {found}.argmax(1)])'
