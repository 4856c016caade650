#!/usr/bin/env python3
"""Writes a batch file as OpenAI's Batch API defines it to standard output: a recruiter's candidates to be scored.

Every request shares one system prompt and has a candidate of its own. The same arguments give the same file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys

SYSTEM = """\
You help a hiring team read applications for one role: backend engineer, payments.

The role: design and run the services that move money between merchants and banks. Eight people, two of them on call \
in any week. What matters, most important first:
1. Has built and operated services that other teams depend on, and can say what went wrong with them.
2. Knows one of Go, Java, Rust or Python well, and relational databases beyond their ORM.
3. Writes clearly: design documents, incident reviews, commit messages.
4. Has worked with money, or with other data where a lost record is a serious matter.
Schools, employers' names, gaps in a career and years of age do not count, in either direction.

Score the candidate from 0 to 100 against these four points. Below 40: the second or the first point is missing. \
40 to 69: worth a telephone call. 70 and above: invite. Then name the strongest evidence you used, and the one \
question that you would ask first.

Answer with one JSON object and nothing else: {"score": <0-100>, "evidence": "<one sentence>", \
"question": "<one sentence>"}"""

GIVEN = ["Amina", "Bruno", "Chidi", "Dana", "Farid", "Grace", "Hanna", "Keiko", "Liam", "Maya", "Priya", "Rosa"]
FAMILY = ["Adeyemi", "Berger", "Castillo", "Dubois", "Goldberg", "Haddad", "Ito", "Kowalska", "Lindqvist", "Novak"]
TITLES = ["Backend engineer", "Software engineer", "Site reliability engineer", "Data engineer", "Full-stack developer"]
FIELDS = [
    "an online supermarket",
    "a ticket seller",
    "a regional bank",
    "a hospital network",
    "a parcel service",
    "a maker of accounting software",
    "a city's public transport",
    "a consultancy with changing clients",
]
LANGUAGES = ["Go", "Java", "Rust", "Python", "Kotlin", "TypeScript", "C#", "Ruby", "Elixir"]
STORES = ["PostgreSQL", "MySQL", "SQL Server", "Cassandra", "DynamoDB", "MongoDB", "Oracle"]
DONE = [
    "Split a monolith of {n} tables into {m} services, one a quarter, without a night of downtime.",
    "Carried the pager for {m} services; cut alerts from {n} a week to {m} by deleting those nobody acted on.",
    "Moved {n} million rows from {store} to another store while both took writes, and compared them row by row.",
    "Wrote the nightly reconciliation against {m} banks; it found {n} lost transfers in its first month.",
    "Brought the checkout's slowest percent from {n}00 ms to {n} ms by reading query plans.",
    "Maintains an open-source {language} library for retries and idempotency keys, used by about {n} projects.",
    "Built dashboards for the sales team, with {n} charts, and a weekly report.",
    "Taught {n} colleagues {language} in {m} workshops and wrote the team's style guide.",
    "Rewrote the deployment scripts; a release takes {m} minutes where it took {n}.",
    "Reviewed every incident of a year and published what {m} of them had in common.",
    "Added {m} payment methods, among them direct debit, with refunds and chargebacks.",
    "Made prototypes for {m} clients; none of them went into production.",
]
WORDS_OF_THEIR_OWN = [
    "I like the quiet part of the work: making sure that nothing is lost.",
    "I want to be where an outage matters, with people who talk about it openly.",
    "After years of projects that ended at the demo I would like to run what I build.",
    "I once paid {n} merchants twice. The review that I wrote about it is still used in the onboarding.",
    "I read about your move to event sourcing and disagree with half of it; I would enjoy that conversation.",
    "My experience is in another field, but ledgers and patient records fail in the same ways.",
    "Please note that I can start in {m} weeks and work part-time, four days.",
]


def candidate(chance: random.Random, number: int) -> str:
    """Return one application as text, of 60 to 200 words."""
    language, store = chance.choice(LANGUAGES), chance.choice(STORES)

    def fill(sentence: str) -> str:
        return sentence.format(n=chance.randint(11, 90), m=chance.randint(2, 9), language=language, store=store)

    year = 2026
    jobs = []
    for title, field in zip(chance.sample(TITLES, 3), chance.sample(FIELDS, 3), strict=True):
        start = year - chance.randint(1, 5)
        tasks = " ".join(fill(sentence) for sentence in chance.sample(DONE, chance.randint(1, 3)))
        jobs.append(f"- {start} to {year}: {title} at {field}. {tasks}")
        year = start
        if chance.random() < 0.35:
            break
    skills = ", ".join([language, store, *chance.sample([x for x in LANGUAGES if x != language], 2)])
    name = f"{chance.choice(GIVEN)} {chance.choice(FAMILY)}"
    words = fill(chance.choice(WORDS_OF_THEIR_OWN))
    parts = [
        f"Application {number}: {name}",
        "Work:\n" + "\n".join(jobs),
        f"Skills: {skills}",
        f"In their words: {words}",
    ]
    return "\n\n".join(parts)


def request(chance: random.Random, number: int, model: str | None, max_tokens: int) -> dict[str, object]:
    """Return one batch request; without `model`, whatever is served answers it."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": candidate(chance, number)}]
    body: dict[str, object] = {"model": model} if model else {}
    body |= {"messages": messages, "max_tokens": max_tokens, "temperature": 0.2}
    return {"custom_id": f"candidate-{number:05d}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a batch of N requests, candidates to be scored.")
    parser.add_argument("count", type=int, metavar="N", help="how many requests")
    parser.add_argument("--model", help="the model's name in every request (default: none is named)")
    parser.add_argument("--max-tokens", type=int, default=48, help="the longest answer, in tokens (default: 48)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other candidates (default: 1)")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    for number in range(1, options.count + 1):
        line = request(chance, number, options.model, options.max_tokens)
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
