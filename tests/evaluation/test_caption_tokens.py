import pytest

from truetag.evaluation.caption_tokens import fold_space, tokenise_caption

# as Stanford's tokenizer divides them, checked with the original
DIVIDED = [
    (
        "I don't know, can't you, cannot it's we're they'll I'd you've I'm",
        "i do n't know ca n't you can not it 's we 're they 'll i 'd you 've i 'm",
    ),
    (
        "gonna wanna gotta gimme lemme 'tis 'twas",
        "gon na wan na got ta gim me lem me 't is 't was",
    ),
    (
        "He said \"hello\" and 'bye' to ‘them’ and “us”",
        "he said hello and bye to them and us",
    ),
    (
        "1,000 dogs 3.5 meters 1/2 cup 50% off $5 #1 20th 1990's '90s",
        "1,000 dogs 3.5 meters 1/2 cup 50 % off $ 5 # 1 20th 1990 's '90s",
    ),
    (
        "the U.S. and the U.S.A. with Mr. Smith, Dr. Who etc. and so on.",
        "the u.s. and the u.s.a. with mr. smith dr. who etc. and so on",
    ),
    (
        "wait... what?! no -- yes – maybe — done…",
        "wait what ?! no yes maybe done",
    ),
    (
        "(a dog) [a cat] {a bird}",
        "-lrb- a dog -rrb- -lsb- a cat -rsb- -lcb- a bird -rcb-",
    ),
    (
        "T-shirt x-ray mother-in-law well-known co-worker's",
        "t-shirt x-ray mother-in-law well-known co-worker 's",
    ),
    (
        "rock & roll AT&T R&B r&b",
        "rock & roll at&t r&b r & b",
    ),
    (
        "http://www.a.com/b?c=d www.site.org me@mail.com @home #tag",
        "http://www.a.com/b?c=d www.site.org me@mail.com @home #tag",
    ),
    (
        "a dog 🐶 runs 😀",
        "a dog runs",
    ),
    (
        "一只狗 кошка сидит café naïve über",
        "一只狗 кошка сидит café naïve über",
    ),
    (
        "dogs' bones children's toys o'clock y'all ma'am rock'n'roll",
        "dogs bones children 's toys o'clock y' all ma'am rock 'n' roll",
    ),
    (
        "10:30 am 5pm 5:54pm 3-D 4x4 16:9 100kg",
        "10:30 am 5pm 5:54 pm 3-d 4x4 16:9 100kg",
    ),
    (
        "yes/no and/or black / white",
        "yes/no and/or black / white",
    ),
    (
        "word.Next sentence. a , b . c",
        "word.next sentence a b c",
    ),
    (
        "-5 degrees +7 .5 2+2=4",
        "-5 degrees +7 .5 2 +2 = 4",
    ),
    (
        "A. B. Smith of U. Miami got a K.",
        "a. b. smith of u. miami got a k",
    ),
    (
        "¥100 €5 £3",
        "¥ 100 $ 5 # 3",
    ),
]


@pytest.mark.parametrize(("text", "tokens"), DIVIDED)
def test_words_are_divided_as_in_the_treebank(text: str, tokens: str) -> None:
    assert tokenise_caption(text) == tokens.split()


@pytest.mark.parametrize("space", ["\r", "\n", "\r\n", "\t", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\u00a0"])
def test_whatever_ends_a_line_is_a_blank(space: str) -> None:
    assert fold_space(f"{space}a dog{space}{space}runs{space}") == "a dog runs"
    assert tokenise_caption(f"a dog{space}runs") == ["a", "dog", "runs"]
    assert len(fold_space(f"a{space}b").splitlines()) == 1


def test_nothing_has_no_tokens() -> None:
    for text in ("", " ", "...", "?", '"', "--", "\u2028"):
        assert tokenise_caption(text) == []
