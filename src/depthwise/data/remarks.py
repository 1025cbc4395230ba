"""What a person should know of a data set before it is trained on."""

from collections.abc import Iterator

from depthwise.data.dataset import Dataset
from depthwise.words import number_of, quote, quote_path


def worth_saying(dataset: Dataset, spec: str, *, resumed: bool) -> Iterator[str]:
    """Sentences about the set that a person calls `spec`; of a run that is `resumed`, which files it trusts."""
    yield from dataset.notes
    for text in dataset.repeated:
        yield f"problem: {text}"
    if dataset.ignored_kinds:
        yield f"ignored: {', '.join(dataset.ignored_kinds)}"
    if dataset.bad:
        first = dataset.bad[0]
        left_out = number_of(len(dataset.bad), "unreadable image is", "unreadable images are")
        yield f"{left_out} left out, {first.path} ({first.reason}) for one"
    if resumed and dataset.num_trusted:
        columns = "".join(f" {quote(word)}" for word in (dataset.columns.words() if dataset.columns else ()))
        yield (
            f"{number_of(dataset.num_trusted, 'file')} not read again, size, times and inode being as they were: "
            f"`depthwise data check {quote_path(spec)}{' --nested' if dataset.nested else ''}{columns}` reads every one"
        )
