"""Annotations as people have them: each case is a command, the files it is given, and what must come of it.

What comes of it is what the manifest then says of each photo, or a part of the message. `benchmarks/doors.py` runs the
same cases with another version of the package.
"""

import io
import json
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

A, B, C = "a.jpg", "b.jpg", "c.jpg"
CAT_DOG = {A: ["cat", "dog"], B: ["dog"]}


class Door(NamedTuple):
    """A case."""

    name: str
    file: str
    content: bytes
    expected: dict[str, Any] | str
    """The tags (or captions) of each photo, or a part of the message."""
    options: tuple[str, ...] = ()
    command: str = "tags"
    photos: tuple[str, ...] = (A, B)
    said: str = ""
    """A part of what is printed."""


def _text(name: str, text: str, expected: dict[str, Any] | str, *options: str, **more: Any) -> Door:
    return Door(name, more.pop("file", "t.csv"), text.encode(), expected, options, **more)


def _json(name: str, value: object, expected: dict[str, Any] | str, *options: str, **more: Any) -> Door:
    return Door(name, more.pop("file", "t.json"), json.dumps(value).encode(), expected, options, **more)


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _excel(*rows: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def shapes() -> Iterator[Door]:
    """Tables of tags of every shape."""
    yield _text("commas and blanks between tags", 'image,tags\na.jpg,"cat, dog"\nb.jpg,dog\n', CAT_DOG, said="commas")
    yield _text("bars between tags", "image,tags\na.jpg,cat|dog\nb.jpg,dog\n", CAT_DOG, said="tags separated by bars")
    yield _text("semicolons between tags", "image,tags\na.jpg,cat;dog\nb.jpg,dog\n", CAT_DOG)
    yield _text("tabs between columns", "image\ttags\na.jpg\tcat, dog\nb.jpg\tdog\n", CAT_DOG, file="t.tsv")
    yield _text("semicolons between columns", 'image;tags\na.jpg;"cat;dog"\nb.jpg;dog\n', CAT_DOG)
    yield _text("semicolons and decimal commas", "image;score;tags\na.jpg;0,5;cat,dog\nb.jpg;0,7;dog\n", CAT_DOG)
    yield _text("a sep= line", "sep=;\nimage;tags\na.jpg;cat,dog\nb.jpg;dog\n", CAT_DOG)
    yield _text("an index column", ',image,tags\n0,a.jpg,"cat,dog"\n1,b.jpg,dog\n', CAT_DOG)
    yield _text("trailing empty columns", 'image,tags,,\na.jpg,"cat,dog",,\nb.jpg,dog,,\n', CAT_DOG)
    yield _text("a byte-order mark and CRLF", "\ufeffimage,tags\r\na.jpg,cat|dog\r\nb.jpg,dog\r\n", CAT_DOG)
    yield _text("Python lists in cells", "image,tags\na.jpg,\"['cat', 'dog']\"\nb.jpg,['dog']\n", CAT_DOG)
    yield _text("JSON lists in cells", 'image,tags\na.jpg,"[""cat"", ""dog""]"\nb.jpg,"[""dog""]"\n', CAT_DOG)
    yield _text("numpy's lists in cells", "image,tags\na.jpg,['cat' 'dog']\nb.jpg,['dog']\n", CAT_DOG)
    yield _text("lists without quotes", 'image,tags\na.jpg,"[cat, dog]"\nb.jpg,[dog]\n', CAT_DOG)
    yield _text("an apostrophe in a list", 'image,tags\na.jpg,"[\'cat\', ""dog\'s""]"\n', {A: ["cat", "dog's"]})
    yield _text("hashtags", "image,tags\na.jpg,#cat #dog\nb.jpg,#dog\n", CAT_DOG)
    yield _text("one tag a line", "image,tag\na.jpg,cat\na.jpg,dog\nb.jpg,dog\n", CAT_DOG, said="united")
    yield _text("one tag a line, with row ids", "id,image,tag\n1,a.jpg,cat\n2,a.jpg,dog\n3,b.jpg,dog\n", CAT_DOG)
    yield _text("two words, one tag a line", "image,tag\na.jpg,teddy bear\na.jpg,cat\n", {A: ["teddy bear", "cat"]})
    yield _text("several columns of tags", "image,tag1,tag2\na.jpg,cat,dog\nb.jpg,dog,\n", CAT_DOG)
    ones = "image,cat,dog\na.jpg,1,1\nb.jpg,0,1\n"
    yield _text("one column a tag", ones, CAT_DOG, said="1 present, 0 absent")
    yield _text("one column a tag, as floats", ones.replace("0", "0.0").replace("1", "1.0"), CAT_DOG)
    yield _text("one column a tag, true and false", "image,cat,dog\na.jpg,True,true\nb.jpg,False,True\n", CAT_DOG)
    yield _text("one column a tag, x and blank", "image,cat,dog\na.jpg,x,x\nb.jpg,,x\n", CAT_DOG)
    unknown = {A: ["cat", "dog"], B: ["dog"], "unknown of b.jpg": ["cat"]}
    yield _text("one column a tag, blank beside 0", "image,cat,dog,cow\na.jpg,1,1,0\nb.jpg,,1,0\n", unknown)
    yield _text("one column a tag, -1 and 1", "image,cat,dog\na.jpg,1,1\nb.jpg,-1,1\n", CAT_DOG, said="-1 absent")
    three = "image,cat,dog,cow\na.jpg,1,1,0\nb.jpg,-1,1,0\n"
    minus = CAT_DOG | {f"unknown of {name}": ["cow"] for name in (A, B)}
    yield _text("-1, 0 and 1 in doubt", three, "absent: expected 0 or -1, got neither")
    yield _text("-1, 0 and 1, and 0 is absent", three, unknown, "--absent", "0")
    yield _text("-1, 0 and 1, and -1 is absent", three, minus, "--absent=-1")
    words = "image,cat,dog\na.jpg,positive,positive\nb.jpg,negative,positive\n"
    yield _text("one column a tag, in words", words, CAT_DOG)
    scores = 'image,tags\na.jpg,"{""cat"": 0.9}"\nb.jpg,"[""dog""]"\n'
    yield _text("tags with scores", scores, {B: ["dog"]}, said="1 x expected tags, got {'cat': 0.9}")
    yield _text("a label of 1 and 0 alone", "image,label\na.jpg,1\nb.jpg,0\n", "got only values such as 1 and 0")
    yield _text("numbers of classes", "image,label\na.jpg,3\nb.jpg,0\n", {A: ["3"], B: ["0"]})
    yield _text("no header", "a.jpg,cat|dog\nb.jpg,dog\n", "add --no-header")
    yield _text("no header, as told", "a.jpg,cat|dog\nb.jpg,dog\n", CAT_DOG, "--no-header")
    yield _text("no header, rows of any length", "a.jpg,cat,dog\nb.jpg,dog\n", CAT_DOG, "--no-header")
    other = "Photo File,Finding Labels,Age\na.jpg,cat|dog,50\nb.jpg,dog,60\n"
    yield _text("columns with other names", other, CAT_DOG, said="not used: 'Age'")
    columns = "sku,what,kind\na.jpg,cat,dog\nb.jpg,,dog\n"
    yield _text("columns that nobody could guess", columns, "name them with --tags-column")
    yield _text("columns named by options", columns, CAT_DOG, "--tags-column", "what", "--tags-column", "kind")
    yield _text("a column that is not there", columns, "did you mean 'what'?", "--tags-column", "whta")
    yield _text("two columns of names", "image,mask,tags\na.jpg,x.png,cat\nb.jpg,y.png,dog\n", {A: ["cat"], B: ["dog"]})
    in_doubt = "can be read in several ways"
    yield _text("two separators", 'image,tags\na.jpg,cat|dog\nb.jpg,"dog, cow"\n', in_doubt)
    yield _text("words or tags", "image,tags\na.jpg,cat dog\nb.jpg,dog\n", in_doubt)
    yield _text("words, as told", "image,tags\na.jpg,cat dog\nb.jpg,dog\n", CAT_DOG, "--separator", " ")
    yield _text("slashes", "image,tags\na.jpg,cat/dog\nb.jpg,dog/cat\n", in_doubt)
    yield _text("a name with commas", 'image,category\na.jpg,"Shoes, Bags"\nb.jpg,"Shoes, Bags"\n' * 3, in_doubt)
    yield _text("blank tags", "image,tags\na.jpg,cat|dog\nb.jpg,nan\n", {A: ["cat", "dog"], B: []}, said="without tags")
    skipped = "image,tags\na.jpg,cat|dog\nb.jpg,\n"
    yield _text("blank tags left out", skipped, {A: ["cat", "dog"]}, "--untagged", "skip")


def formats() -> Iterator[Door]:
    """Tables of tags in every format."""
    records = [{"file": A, "labels": ["cat", "dog"]}, {"file": B, "labels": ["dog"]}]
    yield _json("JSON records", records, CAT_DOG)
    yield _json("JSON by file name", {A: ["cat", "dog"], B: ["dog"]}, CAT_DOG)
    yield _json("JSON in an envelope", {"data": records}, CAT_DOG)
    by_column = {"file": {"0": A, "1": B}, "labels": {"0": ["cat", "dog"], "1": ["dog"]}}
    yield _json("JSON of pandas, by column", by_column, CAT_DOG)
    yield _json("JSON of pandas, by row", {"0": records[0], "1": records[1]}, CAT_DOG)
    yield _json("JSON by file name, with fields", {A: {"tags": "cat|dog"}, B: {"tags": "dog"}}, CAT_DOG)
    yield _json("COCO among tables", {"images": [], "annotations": []}, "use `truetag import coco`")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    yield _text("JSON Lines", lines, CAT_DOG, file="t.jsonl")
    metadata = [{"file_name": A, "tags": ["cat", "dog"]}, {"file_name": B, "tags": ["dog"]}]
    lines = "".join(json.dumps(record) + "\n" for record in metadata)
    yield _text("metadata.jsonl of Hugging Face", lines, CAT_DOG, file="metadata.jsonl")
    lists = pa.table({"image": [A, B], "tags": [["cat", "dog"], ["dog"]], "__index_level_0__": [7, 8]})
    yield Door("Parquet with lists and pandas' index", "t.parquet", _parquet(lists), CAT_DOG)
    stored = pa.table({"image": [{"bytes": None, "path": A}, {"bytes": None, "path": B}], "tags": ["cat|dog", "dog"]})
    yield Door("Parquet with Hugging Face's photos", "t.parquet", _parquet(stored), CAT_DOG)
    yield Door("Excel", "t.xlsx", _excel(["image", "tags"], [A, "cat, dog"], [B, "dog"]), CAT_DOG)
    yield Door("Excel, one column a tag", "t.xlsx", _excel(["image", "cat", "dog"], [A, 1, 1], [B, 0, 1]), CAT_DOG)
    yield _text("an old Excel file", "x", "export it as CSV", file="t.xls")


def rows() -> Iterator[Door]:
    """Rows that are wrong do not end an import."""
    good = "image,tags\na.jpg,cat|dog\nb.jpg,dog\n"
    yield _text("a blank row", good + " , \n", CAT_DOG, said="1 x a blank row")
    yield _text("a row without a name", good + ",cow\n", CAT_DOG, said="1 x no name in 'image'")
    yield _text("a ragged row", good + "b.jpg,dog,cow\n", CAT_DOG, said="1 x expected 2 cells, got 3")
    yield _text("broken quotes", good + 'c.jpg,"dog" cow\n', CAT_DOG, said="1 x broken quotes")
    yield _text("a photo that is not there", good + "zebra.jpg,cow\n", CAT_DOG, said="1 x no such file")
    yield _text("mostly photos that are not there", "image,tags\na.jpg,x\ny.jpg,x\nz.jpg,x\n", "2 x no such file")
    twice = "image,tags\na.jpg,cat\nb.jpg,dog\na.jpg,dog\n"
    yield _text("a name twice", twice, CAT_DOG, said="on several rows: 1 name; their tags are united")
    yield _text("a name twice, the first counts", twice, {A: ["cat"], B: ["dog"]}, "--duplicates", "first")
    yield _text("a name twice, not wanted", twice, "line 4: 'a.jpg' was already on line 2", "--duplicates", "error")
    split = "image,tags,split\na.jpg,cat,train\na.jpg,dog,test\nb.jpg,dog,test\n"
    yield _text("a name in two splits", split, {A: ["cat"], B: ["dog"]}, said="1 x split of 'a.jpg' is 'test'")
    yield _text("an unclosed quote", 'image,tags\na.jpg,"cat\nb.jpg,dog\n', "is a quote left open")
    yield _text("a misspelt column", "image,tags,splt\na.jpg,cat,train\n", "did you mean 'split'?")


def file_names() -> Iterator[Door]:
    """Names that differ from those of the files."""

    def door(name: str, written: str, file: str, said: str = "") -> Door:
        text = f'image,tags\n"{written}",cat|dog\n{B},dog\n'
        return _text(name, text, {file: ["cat", "dog"], B: ["dog"]}, photos=(file, B), said=said)

    yield door("another case", "DSC1.jpg", "DSC1.JPG")
    composed = "Bär.jpg"
    yield door("another Unicode form", unicodedata.normalize("NFD", composed), unicodedata.normalize("NFC", composed))
    yield door("backslashes", "s\\x.jpg", "s/x.jpg")
    yield door("no suffix", "IMG_7", "IMG_7.png")
    yield door("another suffix", "x.png", "x.jpg")
    yield door("a file URL", "file:///home/ann/photos/my%20cat.jpg", "my cat.jpg")
    yield door("a path of another machine", "/home/ann/photos/s/x.jpg", "s/x.jpg")
    yield door("a path of a Windows machine", "C:\\Users\\Ann\\photos\\x.jpg", "x.jpg")
    yield door("a file in a folder below", "x.jpg", "deep/er/x.jpg")
    text = f"image,tags\nx.jpg,cat\n{B},dog\n"
    yield _text("a name in two folders", text, {B: ["dog"]}, photos=("s/x.jpg", "t/x.jpg", B), said="1 x no such file")
    text = f"image,tags\nphoto12.jpg,cat\n{B},dog\n"
    yield _text("a misspelt name", text, {B: ["dog"]}, photos=("photo1.jpg", B), said="1 x no such file")
    yield _text("companions of file managers", f"image,tags\n{B},dog\n", {B: ["dog"]}, photos=(f"._{B}", B))


def captions() -> Iterator[Door]:
    """Tables of captions of every shape."""
    both = {A: ["a cat", "a dog"], B: ["two dogs"]}
    one_a_row = "image,caption\na.jpg,a cat\na.jpg,a dog\nb.jpg,two dogs\n"
    yield _text("one caption a row", one_a_row, both, command="captions")
    numbered = "id,image,caption\n1,a.jpg,a cat\n2,a.jpg,a dog\n3,b.jpg,two dogs\n"
    yield _text("one caption a row, with row ids", numbered, both, command="captions")
    columns = "image,caption_0,caption_1\na.jpg,a cat,a dog\nb.jpg,two dogs,\n"
    yield _text("several columns of captions", columns, both, command="captions")
    lists = "image,captions\na.jpg,\"['a cat', 'a dog']\"\nb.jpg,['two dogs']\n"
    yield _text("lists of captions", lists, both, command="captions")
    token = "a.jpg#0\ta cat\na.jpg#1\ta dog\nb.jpg#0\ttwo dogs\n"
    yield _text("Flickr8k.token.txt", token, both, command="captions", file="Flickr8k.token.txt")
    results = "image_name| comment_number| comment\na.jpg| 0| a cat\na.jpg| 1| a dog\nb.jpg| 0| two dogs\n"
    yield _text("results.csv of Flickr30k", results, both, command="captions", file="results.csv")
    names = "image,name,usage\na.jpg,a cat,Pets\nb.jpg,two dogs,Pets\n"
    yield _text("names of products", names, {A: ["a cat"], B: ["two dogs"]}, command="captions", said="'name'")
    chosen = "image,title,seo\na.jpg,a cat,a dog\nb.jpg,two dogs,\n"
    options = ("--caption-column", "title", "--caption-column", "seo")
    yield _text("columns named by options", chosen, both, *options, command="captions")
    yield _text(
        "captions that are blank", one_a_row + "c.jpg,\n", both, command="captions", photos=(A, B, C), said="no capt"
    )
    bare = "a.jpg\ta cat\na.jpg\ta dog\nb.jpg\ttwo dogs\n"
    yield _text("no header", bare, "add --no-header", command="captions", file="t.tsv")
    yield _text("no header, as told", bare, both, "--no-header", command="captions", file="t.tsv")
    lines = "".join(json.dumps({"file_name": n, "text": t}) + "\n" for n, t in ((A, "a cat"), (B, "two dogs")))
    yield _text("metadata.jsonl", lines, {A: ["a cat"], B: ["two dogs"]}, command="captions", file="metadata.jsonl")
    no_captions = "image,width\na.jpg,3\nb.jpg,4\n"
    yield _text("no captions at all", no_captions, "expected a column of captions", command="captions")


def sources() -> Iterator[Door]:
    """Published data sets."""
    photos = [{"id": 1, "file_name": A}, {"id": 2, "file_name": B}]
    instances = {
        "images": photos,
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": k} for k in (8, 7)] + [{"image_id": 2, "category_id": 8}],
    }
    yield _json("COCO instances", instances, CAT_DOG, command="coco")
    sentences = [{"raw": "a cat"}, {"raw": "a dog"}]
    karpathy = {"images": [{"filename": A, "split": "restval", "sentences": sentences}], "dataset": "flickr8k"}
    yield _json("Karpathy's JSON", karpathy, {A: ["a cat", "a dog"]}, command="karpathy", said="train 1")
    labels = "ImageID,Source,LabelName,Confidence\na,verification,/m/1,1\na,verification,/m/2,0\n"
    expected = {A: ["/m/1"], "unknown of a.jpg": ["*"], "rejected of a.jpg": ["/m/2"]}
    yield _text("Open Images", labels, expected, command="open-images")


def doors() -> list[Door]:
    """All cases, always in this order."""
    return [*shapes(), *formats(), *rows(), *file_names(), *captions(), *sources()]
