"""Which data sets constants may be chosen on, and which are looked at once, at the end.

Every constant of the predictor is learned from rows, or chosen on development data by leaving out one *data set* at a time.
Exam data is never used for either: its rows are not shipped, and nothing changes after they were looked at. Data of an exam
that was looked at is used up: the next version takes it as development data, and needs an exam of new data.
"""

from __future__ import annotations

DEVELOPMENT = (
    "sst2",
    "cola",
    "mrpc",
    "rte",
    "trec",
    "stsb",
    "tiny_chat",
    "gsm8k",
    "movie_review",
    "tweet_irony",
    "scicite",
    "snips",
    "atis",
    "clinc150",
    "codah_endings",
    "emobank_valence",
    "nl2bash",
    "bbh_short",
    # the first exam
    "sms_spam",
    "comments_java",
    "chemprot",
    "hwu64",
    "lexical_complexity",
    "text2sql_geo",
    # the second exam
    "imdb",
    "mawps",
    "mpqa",
    "sick",
    "subj",
    "svamp",
    "tweet_emotion",
    "tweet_hate",
    "tweet_stance",
    # language models
    "csqa",
    "scan",
    "scholar",
    "tldr",
    # the third exam
    "ag_news",
    "asdiv",
    "cogs",
    "e2e",
    "jfleg",
    "joke_rating",
    "offensive",
    "paper_field",
    "sciie",
    # the fourth exam
    "advising",
    "answering",
    "citation_intent",
    "counterfactual",
    "django",
    "last_letters",
    "question_topic",
    "tweet_emoji",
    # the fifth exam
    "atis_sql",
    "clickbait",
    "coin_flip",
    "news_topic",
    "strategy",
    "swapped_objects",
    "tweet_sentiment",
    "wikisql",
    # the sixth exam
    "bace",
    "bbbp",
    "lipophilicity",
    "reaction_yield",
    "solar_cells",
    "solubility",
    "tox21_mmp",
    # the seventh exam
    "antibody",
    "claims",
    "dates",
    "regex",
    "shop_intent",
    "survey",
    # the eighth exam
    "empathy",
    "simplify",
    "why",
    # the ninth exam
    "disease",
    "inflect",
    "pronounce",
    "tone",
)
EXAM = (
    # never shipped; judged with every version
    "banking77",
    "docstrings",
    # the tenth exam
    "acronym",
    "readability",
    "role",
    "sparql",
    "suggestion",
)


def data_set(data: str) -> str:
    """The data set's name, from what a row calls its data, such as ``sst2/train.jsonl``.

    Raises:
        ValueError: it is neither development nor exam data.
    """
    name = data.split("/")[0] if "/" in data else data.split(".")[0]
    name = "docstrings" if name == "demo" else name
    if name not in DEVELOPMENT + EXAM:
        raise ValueError(f"{data}: neither development nor exam data.")
    return name
