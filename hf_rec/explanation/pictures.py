"""Pictures of what a model reads: attention over the titles, its flow to the answer, and a map of the items.

Each is one figure of matplotlib, as a PNG and as an SVG whose marks show their values on hover. Colour-blind readers
can tell the colours apart: cividis, and those of [Okabe and Ito](https://jfly.uni-koeln.de/color/).
"""

import io
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..model.pipeline_bert4rec import RecommendationPipeline
from .attention import attention_weights, flows
from .game import HistoryGame
from .gradients import check_torch

LAST_EVENTS = 12  # that a picture of attention shows
TITLE_LENGTH = 28  # that fits beside a picture; the whole title is shown on hover
CHARACTER = 0.12  # inches of a wide character in the size of titles
OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OTHER = "#999999"
NAMED_ITEMS = 24  # whose titles are written on the map
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass
class Picture:
    """A figure and what its marks say on hover.

    Attributes:
        figure: A `matplotlib.figure.Figure`.
        hover: For each id of a group of marks the texts of its marks, in order.
    """

    figure: object
    hover: Mapping[str, Sequence[str]]

    def save(self, path: str | Path) -> None:
        """Write a PNG."""
        self.figure.savefig(path, format="png", dpi=110, bbox_inches="tight")

    def svg(self) -> str:
        """An `<svg>` element to put into a page."""
        written = io.BytesIO()
        with matplotlib().rc_context({"svg.hashsalt": "hf_rec", "svg.fonttype": "none"}):
            self.figure.savefig(
                written,
                format="svg",
                bbox_inches="tight",
                metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
            )
        for prefix, namespace in (("", SVG), ("xlink", XLINK)):
            ET.register_namespace(prefix, namespace)
        root = ET.fromstring(written.getvalue())
        groups = {group.get("id"): group for group in root.iter(f"{{{SVG}}}g")}
        for name, texts in self.hover.items():
            # Marks of one shape are uses of a path in <defs>, others are paths.
            marks = [*groups[name].iter(f"{{{SVG}}}use")] or [*groups[name].iter(f"{{{SVG}}}path")]
            for mark, text in zip(marks, texts, strict=True):
                ET.SubElement(mark, f"{{{SVG}}}title").text = text
        return ET.tostring(root, encoding="unicode")


def matplotlib():
    """`matplotlib`, which the extra `explanation` installs."""
    try:
        import matplotlib.collections
        import matplotlib.figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'hf_rec[explanation]'") from error
    return matplotlib


def plain(title: str) -> str:
    """A title on one line, without characters that cannot be drawn."""
    return "".join(mark for mark in " ".join(str(title).split()) if mark.isprintable())


def short(title: str) -> str:
    """A title that fits beside a picture.

    Example:
        >>> short("Dr. Strangelove or: How I Learned to Stop Worrying")
        'Dr. Strangelove or: How I L…'
        >>> short("Rocky Horror Picture Show, The (1975)")
        'Rocky Horror Picture Show…'
    """
    title = plain(title)
    return title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1].rstrip(" ,(") + "…"


def room_for(names: Sequence[str]) -> float:
    """Inches that the longest of the titles takes at most."""
    return CHARACTER * max(len(short(name)) for name in names)


def position_titles(game: HistoryGame, titles: Mapping[str, str]) -> list[str]:
    """A title for each position that the model reads."""
    items = [game.items[place] for place in game.window.places]
    named = [plain(titles.get(item, item)) for item in items]
    return named if game.config.is_decoder else [*named, "(next item)"]


def attention_picture(
    game: HistoryGame, titles: Mapping[str, str] | None = None, last_events: int = LAST_EVENTS
) -> Picture:
    """Heat maps of the attention weights, one for each layer and head: a row for the item that reads, a column for the
    item that is read. Only the last positions are shown."""
    weights, names = attention_weights(game), position_titles(game, titles or {})
    kept = slice(-(last_events + (not game.config.is_decoder)), None)
    weights, names = weights[..., kept, kept].numpy(), names[kept]
    layers, heads, count = weights.shape[:3]
    side, room = 0.8 + 0.2 * count, room_for(names)
    figure = matplotlib().figure.Figure((1.2 + room + side * heads, 0.6 + room + side * layers), layout="constrained")
    axes, hover = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True), {}
    for layer in range(layers):
        for head in range(heads):
            axis = axes[layer, head]
            mesh = axis.pcolormesh(weights[layer, head], cmap="cividis", vmin=0, vmax=weights.max(), edgecolors="face")
            mesh.set_gid(f"attention-{layer}-{head}")
            axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
            hover[f"attention-{layer}-{head}"] = [
                f"{names[query]} reads {names[key]}: {weights[layer, head, query, key]:.1%}"
                for query in range(count)
                for key in range(count)
            ]
    axes[0, 0].invert_yaxis()
    places = np.arange(count) + 0.5
    for axis in axes[-1]:
        axis.set_xticks(places, [short(name) for name in names], rotation=90, fontsize=8, parse_math=False)
    for axis in axes[:, 0]:
        axis.set_yticks(places, [short(name) for name in names], fontsize=8, parse_math=False)
    figure.colorbar(mesh, ax=axes, label="attention weight", shrink=0.6, aspect=30)
    figure.supxlabel("item that is read", fontsize=9)
    figure.supylabel("item that reads", fontsize=9)
    return Picture(figure, hover)


def flow_picture(
    game: HistoryGame, titles: Mapping[str, str] | None = None, last_events: int = LAST_EVENTS
) -> Picture:
    """How attention brings the last events to the state that answers: the wider a line, the larger its part of the
    rollout. Only the last positions are shown."""
    titles = titles or {}
    steps, names = flows(attention_weights(game)).numpy(), position_titles(game, titles)
    first = max(len(names) - last_events - (not game.config.is_decoder), 0)
    steps, names = steps[:, first:, first:], names[first:]
    layers, count = len(steps), len(names)
    figure = matplotlib().figure.Figure((6.5 + room_for(names), 1.2 + 0.33 * count), layout="constrained")
    axis, hover = figure.subplots(), {}
    for layer, parts in enumerate(steps):
        ends = np.argwhere(parts > 0.002)  # thinner lines cannot be seen
        sizes = parts[ends[:, 0], ends[:, 1]]
        lines = [[(layer, key), (layer + 1, query)] for query, key in ends]
        drawn = matplotlib().collections.LineCollection(
            lines, linewidths=0.5 + 16 * sizes, colors=OKABE_ITO[4], alpha=0.35 + 0.65 * sizes
        )
        drawn.set_gid(f"flow-{layer}")
        axis.add_collection(drawn)
        hover[f"flow-{layer}"] = [
            f"{names[key]} to {names[query]}, layer {layer + 1}: {size:.1%}"
            for (query, key), size in zip(ends, sizes, strict=True)
        ]
    axis.scatter(*np.meshgrid(np.arange(layers), np.arange(count)), s=14, color="black", zorder=3)
    axis.scatter([layers], [count - 1], s=40, color="black", zorder=3)
    answer = short(titles.get(game.item_id, game.item_id))
    axis.annotate(
        f"answer:\n{answer}",
        (layers, count - 1),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        parse_math=False,
    )
    axis.set_yticks(range(count), [short(name) for name in names], fontsize=9, parse_math=False)
    axis.set_xticks(range(layers + 1), ["items", *(f"layer {layer + 1}" for layer in range(layers))], fontsize=9)
    axis.set_xlim(-0.1, layers + 0.55)
    axis.set_ylim(count - 0.5, -0.5)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return Picture(figure, hover)


def item_map(recommend: RecommendationPipeline, method: str = "tsne", seed: int = 0) -> tuple[list[str], np.ndarray]:
    """The items of the catalogue and their (items, 2) places on a map: items with similar vectors are near each other.

    Args:
        method: "tsne" ([van der Maaten and Hinton, 2008](https://jmlr.org/papers/v9/vandermaaten08a.html)) or "umap"
            ([McInnes et al., 2018](https://arxiv.org/abs/1802.03426)), both of the cosine distance.

    Raises:
        ValueError: for another method, the export of a model, or a catalogue of fewer than four items.
    """
    check_torch(recommend)
    if method not in ("tsne", "umap"):
        raise ValueError(f"a map is made by 'tsne' or 'umap', got {method!r}")
    gone = {*recommend.model.config.unavailable_ids}
    items = {item: index for index, item in sorted(recommend.item_of_id.items()) if index not in gone}
    if len(items) < 4:
        raise ValueError(f"a map needs at least four items, got {len(items)}")
    with torch.inference_mode():
        vectors = recommend.model.scoring_items(torch.tensor([*items.values()], device=recommend.device))
    vectors = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    try:
        if method == "umap":
            import umap

            near = min(15, len(items) - 1)
            mapper = umap.UMAP(n_neighbors=near, metric="cosine", random_state=seed, n_jobs=1)
            return [*items], mapper.fit_transform(vectors)
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError("a map needs scikit-learn or umap-learn: pip install 'hf_rec[explanation]'") from error
    perplexity = min(30, (len(items) - 1) / 3)
    return [*items], TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(
        vectors
    )


def map_picture(
    items: Sequence[str],
    places: np.ndarray,
    titles: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
    named: Sequence[str] = (),
) -> Picture:
    """The map of the items, coloured by group.

    Args:
        items, places: Of [`item_map`].
        groups: Group of each item, such as its genre; the seven largest have a colour and a mark of their own.
        named: Items whose titles may be written on the map, the most important first; as many as have room.
    """
    titles, groups = titles or {}, groups or {}
    of_item = [plain(groups[item]) if groups.get(item) else "unknown" for item in items]
    largest = [name for name, _ in Counter(of_item).most_common(len(OKABE_ITO)) if groups]
    figure = matplotlib().figure.Figure((9, 8), layout="constrained")
    axis, hover = figure.subplots(), {}
    styles = [*zip(largest, OKABE_ITO, MARKERS, strict=False), ("other" if groups else "items", OTHER, ".")]
    for number, (name, colour, marker) in reversed([*enumerate(styles)]):
        inside = [
            place for place, group in enumerate(of_item) if (group if group in largest else styles[-1][0]) == name
        ]
        if not inside:
            continue
        drawn = axis.scatter(
            *places[inside].T, s=16, c=colour, marker=marker, label=name, edgecolors="black", linewidths=0.2
        )
        drawn.set_gid(f"map-{number}")
        hover[f"map-{number}"] = [
            f"{plain(titles.get(items[place], items[place]))} ({of_item[place]})" for place in inside
        ]
    write_titles(axis, items, places, titles, named)
    axis.set_xticks([])
    axis.set_yticks([])
    handles, labels = axis.get_legend_handles_labels()
    legend = figure.legend(
        handles[::-1], labels[::-1], loc="outside lower center", ncols=4, fontsize=10, markerscale=2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return Picture(figure, hover)


def write_titles(axis, items, places, titles, named) -> None:
    """Titles of the items that have room for them, left to right around their marks."""
    size = np.ptp(places, axis=0)
    place_of, written = dict(zip(items, places, strict=True)), []
    for item in named:
        place = (place_of[item] - places.min(0)) / size
        near = [abs(place - other) < (0.3, 0.035) for other in written]
        if any(both.all() for both in near) or not 0.12 < place[0] < 0.88 or len(written) == NAMED_ITEMS:
            continue
        written.append(place)
        axis.annotate(
            short(titles.get(item, item)),
            place_of[item],
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            parse_math=False,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )


__all__ = ["Picture", "attention_picture", "flow_picture", "item_map", "map_picture"]
