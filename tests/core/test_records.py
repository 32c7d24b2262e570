"""Tables in files."""

import numpy as np
import pandas as pd

from tgt_ray.core import records
from tgt_ray.core.storage import Storage


def test_values_of_several_kinds_and_lists_can_be_written(tmp_path):
    table = pd.DataFrame(
        {"anchors": ["natural", 0.5, None], "widths": [[8, 16], [16], None], "score": [1.0, 2.0, np.nan]}
    )
    records.write_table(Storage(tmp_path), table, "trials")
    again = records.read_table(Storage(tmp_path), "trials")
    assert list(again.anchors) == ['"natural"', "0.5", None] and list(again.widths) == ["[8, 16]", "[16]", None]
    assert again.score[1] == 2.0
