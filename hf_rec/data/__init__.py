"""From a log of interactions to tokenized splits and batches."""

from .collator import RecommendationCollator
from .encode import fit_features, histories_of, name_features, tokenize_splits
from .events import EventStore, file_source, kafka_source
from .expressions import evaluate_expression, filter_table
from .files import TableFiles, read_table
from .items import align_items, item_columns, name_item_features, one_row_each
from .label_collator import LabelCollator
from .labels import add_event_labels, fit_label, split_users, tokenize_labels
from .sequences import build_sequences, load_preset, read_sequences
from .shards import SequenceShards
from .sources import PRESETS, load_log
from .splits import hold_out_items, join_splits, leave_one_out, temporal_split
from .streams import StreamedRows, TrainingShards
from .tokenization_items import ItemTokenizer
from .users import join_users

__all__ = [
    "PRESETS",
    "EventStore",
    "ItemTokenizer",
    "LabelCollator",
    "RecommendationCollator",
    "SequenceShards",
    "StreamedRows",
    "TableFiles",
    "TrainingShards",
    "add_event_labels",
    "align_items",
    "build_sequences",
    "evaluate_expression",
    "file_source",
    "filter_table",
    "fit_features",
    "fit_label",
    "histories_of",
    "hold_out_items",
    "item_columns",
    "join_splits",
    "join_users",
    "kafka_source",
    "leave_one_out",
    "load_log",
    "load_preset",
    "name_features",
    "name_item_features",
    "one_row_each",
    "read_sequences",
    "read_table",
    "split_users",
    "temporal_split",
    "tokenize_labels",
    "tokenize_splits",
]
