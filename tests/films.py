"""A small recommender of films, with titles that a page must show as they are."""

import pyarrow as pa
import torch
from conftest import small_model
from transformers import pipeline

from hf_rec import ItemTokenizer, RecommendationPipeline
from hf_rec.data.items import item_columns

TITLES = {
    "f0": "Star Wars (1977)",
    "f1": "Wars of the Roses, The (1989)",
    "f2": "Amélie (2001)",
    "f3": "<img src=x onerror=\"document.title='run'\">",
    "f4": "${document.title='run'} {{this}} `quoted` & 'single'",
    "f5": None,
    "f6": "Starship Troopers (1997)",
    "f7": "Matrix, The (1999)",
    "f8": "Alien (1979)",
    "f9": "Aliens (1986)",
    **{f"f{number}": f"Film number {number}" for number in range(10, 24)},
}
GENRES = ("Comedy", "Drama", "Sci-Fi", "War & Peace")
ITEMS = pa.table(
    {
        "item_id": [*TITLES],
        "title": [*TITLES.values()],
        "genres": [[GENRES[row % 4], GENRES[row % 3]] if row != 5 else None for row in range(len(TITLES))],
        "year": [1970 + row for row in range(len(TITLES))],
    }
)


def film_recommender(columns=("title", "genres", "year"), **config) -> RecommendationPipeline:
    """A causal model of random weights, whose items have these columns."""
    tokenizer = ItemTokenizer.from_items([*TITLES], max_length=8)
    model = small_model(len(tokenizer), is_decoder=True, **config)
    torch.nn.init.normal_(model.scores.bias)
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer)
    if columns:
        model.item_columns = item_columns(ITEMS, tokenizer.item_ids, columns)
    return recommend
