#!/usr/bin/env python3
"""Makes the reference for cron expressions, pgtap/engine/cron_reference.txt.

    python3 -m venv .venv && .venv/bin/pip install cronsim==2.8 croniter==7.0.0
    .venv/bin/python scripts/cron_reference.py > pgtap/engine/cron_reference.txt

It was made with the zones of tzdata 2025b. With --year it makes sql/testdata/schedules_of_a_year.txt, for
sql/schedule_test.go: a hundred schedules in five zones, "expression|zone|how many times it comes in 2025|the MD5 of
these times". With --random N --seed S it prints N random triples instead, in the same
form, to be compared as pgtap/engine/cron_reference.sql does. Each line is an expression, a zone, a time, and the times
that come next, each of them the first one after the one before it: "expression|zone|after|next next ...", all in UTC.

The reference is cronsim, which follows Debian's cron. For W, which it does not have, it is croniter, in UTC and without
a day of week. Where they differ from Awa, this script corrects them:

- After a time in the second pass of an hour that is repeated, cronsim returns the first pass, which is over. Debian's
  cron never runs a job for a time that is over. Here: the first time that is later.
- With six fields, cronsim does not apply the rules of clock changes. Debian's cron has no seconds, so neither is right.
  Here the rules are the same for five and six fields, since "30 2 * * *" and "0 30 2 * * *" mean the same. Times that
  are skipped come in the first second after the jump.
- For expressions that go by the clock on the wall, cronsim sets the minute to 0 in the middle of a clock change. So it
  returns midnight in Havana on a day that begins at 01:00, and misses half-hour changes such as those of Lord Howe.
  Debian's cron looks at the clock each minute. Here: the first minute at which the clock on the wall matches.
- cronsim reads "3-3/2" as "3/2"; Debian's cron and Awa as "3".
- cronsim gives up after 50 years, and reads "*/90", "L/2" and "MON#1/2"; Awa refuses them. It refuses "FRIL", which
  Awa reads as "5L". It refuses "0 0 31 2 *" and its like, but not all days that never come, such as "0 0 */30 * 1#2".
- croniter reads "9-9" as "*". Debian's cron, cronsim and Awa read it as "9".
- croniter reads seconds as the last field, applies "or" to "*/n" days, and runs times that come twice two times. Awa
  follows Debian and cronsim in all of this.
"""

import argparse
import hashlib
import random
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from croniter import croniter
from cronsim import CronSim
from cronsim.cronsim import is_imaginary

UTC = timezone.utc
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe", "Antarctica/Troll",
    "Pacific/Chatham", "Pacific/Apia", "Africa/Casablanca", "Asia/Kolkata", "CET",
]  # fmt: skip
END = datetime(2300, 1, 1, tzinfo=UTC)


def offset(zone, at):
    return at.astimezone(zone).utcoffset()


def transitions(zone, begin, end):
    """The clock changes of a zone: each is the first second with the new offset."""
    found = []
    at = begin
    while at < end:
        later = at + timedelta(days=1)
        if offset(zone, at) != offset(zone, later):
            low, high = at, later
            while high - low > timedelta(seconds=1):
                middle = (low + (high - low) / 2).replace(microsecond=0)
                if offset(zone, middle) == offset(zone, at):
                    low = middle
                else:
                    high = middle
            found.append(high)
        at = later
    return found


def next_at_time(expression, zone, after):
    sim = CronSim(expression, after.astimezone(zone))
    sim.fixup_tz = zone
    sim.dt = sim.dt.replace(tzinfo=None)
    while True:
        sim.tick()
        sim.advance()
        shown = sim.dt.replace(tzinfo=zone, fold=0)
        while is_imaginary(shown):
            sim.dt = sim.dt.replace(second=0) + timedelta(minutes=1)
            shown = sim.dt.replace(tzinfo=zone, fold=0)
        if shown.astimezone(UTC) > after:
            return shown.astimezone(UTC)


def next_by_wall(expression, zone, after):
    sim = CronSim(expression, after)
    at = after.replace(microsecond=0) + timedelta(seconds=1)
    while at < END:
        wall = at.astimezone(zone)
        if wall.month not in sim.months or not sim.match_day(wall.date()):
            next_day = at - timedelta(hours=wall.hour, minutes=wall.minute, seconds=wall.second) + timedelta(days=1)
            if offset(zone, at) == offset(zone, next_day) == offset(zone, next_day + timedelta(days=1)):
                at = next_day
                continue
        elif wall.hour not in sim.hours:
            next_hour = at - timedelta(minutes=wall.minute, seconds=wall.second) + timedelta(hours=1)
            if offset(zone, at) == offset(zone, next_hour):
                at = next_hour
                continue
        elif wall.minute in sim.minutes:
            seconds = [s for s in sim.seconds if s >= wall.second]
            if seconds:
                return at + timedelta(seconds=min(seconds) - wall.second)
        at = at.replace(second=0) + timedelta(minutes=1)
    return None


def next_of(expression, zone_name, after):
    zone = ZoneInfo(zone_name)
    fields = expression.split()
    if "W" in expression.replace("LW", "").replace("WED", ""):
        assert zone_name == "UTC" and len(fields) == 5 and fields[4] == "*"
        return croniter(expression, after).get_next(datetime)
    if fields[-5].startswith("*") or fields[-4].startswith("*"):
        return next_by_wall(expression, zone, after)
    return next_at_time(expression, zone, after)


def text(at):
    return at.strftime("%Y-%m-%dT%H:%MZ" if at.second == 0 else "%Y-%m-%dT%H:%M:%SZ")


def line(expression, zone, after, count):
    after = after.replace(microsecond=0)
    at, found = after, []
    for _ in range(count):
        at = next_of(expression, zone, at)
        if at is None or at > END:
            break
        found.append(text(at))
    return "|".join([expression, zone, text(after), " ".join(found)]) if found else None


def around(zone_name, at):
    """Expressions near the hours that a clock change skips or repeats, and times before, in and after it."""
    zone = ZoneInfo(zone_name)
    before, after = (at - timedelta(seconds=1)).astimezone(zone), at.astimezone(zone)
    first, last = min(before.replace(tzinfo=None), after.replace(tzinfo=None)), max(
        before.replace(tzinfo=None), after.replace(tzinfo=None)
    )
    hour, day, size = first.hour, (first + timedelta(minutes=2)).day, last - first
    if before.replace(tzinfo=None) < after.replace(tzinfo=None):
        hour, day = (first + timedelta(seconds=1)).hour, (first + timedelta(seconds=1)).day
    hours = sorted({hour, (hour + 1) % 24, (hour + 2) % 24})
    listed = ",".join(str(h) for h in hours)
    starts = [at - timedelta(minutes=100), at - timedelta(seconds=1), at, at + size / 3, at + size]
    expressions = [
        (f"30 {hour} * * *", 3), (f"{first.minute} {hour} * * *", 3), (f"45 {hours[-1]} * * *", 2),
        (f"0,20,50 {listed} * * *", 6), (f"*/20 {hour} * * *", 4), (f"15 * * * *", 3), (f"*/40 * {day} * *", 4),
        (f"0 0 * * *", 2), (f"10 {hour} {day} * *", 2), (f"5 {hour} * * {after.strftime('%a').upper()}", 2),
        (f"*/25 30 {hour} * * *", 4), (f"30 15 {listed} * * *", 3),
    ]  # fmt: skip
    return [line(e, zone_name, s, n) for s in starts for e, n in expressions[:: 1 if s in starts[1:4] else 2]]


NAMES = {5: "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), 6: "SUN MON TUE WED THU FRI SAT".split()}
RANGES = {1: (0, 59), 2: (0, 59), 3: (0, 23), 4: (1, 31), 5: (1, 12), 6: (0, 7)}


def random_field(rand, field, nearest=False):
    low, high = RANGES[field]

    def value(v=None):
        v = rand.randint(low, high) if v is None else v
        if field in NAMES and v - low < len(NAMES[field]) and rand.random() < 0.3:
            return NAMES[field][v - low]
        return str(v)

    def part():
        kind = rand.random()
        if field == 4 and nearest:
            return f"{rand.randint(1, 31)}W"
        if field == 4 and kind < 0.1:
            return rand.choice(["L", "LW"])
        if field == 6 and kind < 0.25:
            day = rand.randint(0, 7)
            return f"{day}L" if rand.random() < 0.3 else f"{value(day)}#{rand.randint(1, 5)}"
        if kind < 0.6:
            return value()
        if kind < 0.8:
            a, b = sorted(rand.sample(range(low, high + 1), 2))
            return f"{value(a)}-{value(b)}" + (f"/{rand.randint(1, 6)}" if rand.random() < 0.4 else "")
        if kind < 0.9:
            return f"*/{rand.randint(1, high - max(low, 1))}"
        return f"{rand.randint(low, high)}/{rand.randint(1, high - max(low, 1))}"

    if nearest:
        return part()
    chance = {1: 0.3, 2: 0.2, 3: 0.35, 4: 0.45, 5: 0.7, 6: 0.5}[field]
    if rand.random() < chance:
        return "*"
    return ",".join(part() for _ in range(rand.choice([1, 1, 1, 2, 3])))


def random_line(rand, changes, count=1):
    while True:
        nearest = rand.random() < 0.03
        zone = "UTC" if nearest else rand.choice(ZONES)
        six = not nearest and rand.random() < 0.2
        fields = [random_field(rand, f, nearest and f == 4) for f in range(1 if six else 2, 7)]
        if nearest:
            fields[4] = "*"
        if changes[zone] and rand.random() < 0.6:  # near a clock change, and an hour near it
            at = rand.choice(changes[zone]) + timedelta(seconds=rand.randint(-7200, 7200))
            if rand.random() < 0.6:
                hour = (at.astimezone(ZoneInfo(zone)).hour + rand.randint(-1, 2)) % 24
                fields[-4] = rand.choice([f"{hour}", f"{hour}", f"{hour},{(hour + 3) % 24}", f"*/{rand.randint(1, 4)}"])
        else:
            at = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=rand.randint(0, 7 * 365 * 86400))
        try:
            found = line(" ".join(fields), zone, at, count)
        except (StopIteration, RuntimeError, ValueError, AssertionError) as error:  # never comes
            if isinstance(error, ValueError) and "year" not in str(error):
                raise
            continue
        except Exception as error:
            if type(error).__name__ != "CronSimError":
                raise
            continue
        if found:
            return found


def year(rand):
    """A hundred schedules in five zones, with all their times in 2025: some near the hours of clock changes."""
    begin, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    lines = []
    for zone in ["Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Antarctica/Troll", "Africa/Casablanca"]:
        expressions = [
            "@daily", "30 2 * * *", "15 1,2 * * 0", "45 1 * * *", "*/30 2 * * SUN", "0 */6 1-3 * *", "0 12 L * 5L",
            "59 23 31 * *", "0 3 * * SUN",
        ]  # fmt: skip
        while len(expressions) < 20:
            fields = [random_field(rand, f) for f in range(1 if rand.random() < 0.2 else 2, 7)]
            try:
                at, n = begin, 0
                while at and at < end and n < 250:
                    at, n = next_of(" ".join(fields), zone, at), n + 1
                if 12 < n < 250:
                    expressions.append(" ".join(fields))
            except Exception as error:
                if type(error).__name__ not in ("CronSimError", "StopIteration", "RuntimeError", "AssertionError"):
                    raise
        for expression in expressions:
            at, found = begin, []
            while True:
                at = next_of("0 0 * * *" if expression == "@daily" else expression, zone, at)
                if at is None or at > end:
                    break
                found.append(at.strftime("%Y-%m-%dT%H:%M:%SZ"))
            digest = hashlib.md5(" ".join(found).encode()).hexdigest()
            lines.append("|".join([expression, zone, str(len(found)), digest]))
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--year", action="store_true")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.year:
        print("# Made by scripts/cron_reference.py --year. Do not edit.")
        print("\n".join(year(random.Random(args.seed))))
        return
    first, last = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, tzinfo=UTC)
    changes = {z: transitions(ZoneInfo(z), first, last) for z in ZONES}
    changes["Pacific/Apia"].append(datetime(2011, 12, 30, 10, tzinfo=UTC))  # from Thursday to Saturday
    rand = random.Random(args.seed)
    if args.random:
        for _ in range(args.random):
            print(random_line(rand, changes))
        return
    lines = []
    for zone in ZONES:
        for at in {c.month: c for c in changes[zone]}.values() if zone != "Africa/Casablanca" else changes[zone][-2:]:
            lines += around(zone, at)
    at = datetime(2024, 2, 20, 12, 0, tzinfo=UTC)
    for expression in [
        "0 9 29 2 *", "0 9 * 2 0#5", "0 9 * 2 SUN#5", "0 9 29 2 */6", "30 6 31 * *", "0 0 L * *", "0 0 LW * *",
        "0 0 L 2 *", "0 12 * * 5L", "0 12 * * 7L", "0 12 13 * FRI", "0 12 */13 * FRI", "0 12 13 * */5", "0 12 L * 5L",
        "0 12 */2 * 5L", "0 12 1-7 * MON", "0 12 * * MON#1", "0 12 L,15 1,7 *", "0 0 1 1 *", "*/7 * * * *",
        "5/15 * * * *", "0 9-17/4 * * MON-FRI", "0 22-23,0-2 * * *", "59 23 31 12 *", "0 0 * * 0", "0 0 * * 7",
        "0 0 * * 6-7", "0 0 1,LW 3/4 *",
        "15 30 8 * * *", "*/30 * * * * *", "59 59 23 L * *", "0 0 1W * *", "0 0 15W * *", "0 0 31W * *", "0 0 30W 2 *",
    ]:  # fmt: skip
        lines.append(line(expression, "UTC", at, 6))
    for century in (2099, 2196):
        lines.append(line("0 9 29 2 *", "Europe/Berlin", datetime(century, 3, 1, tzinfo=UTC), 2))
    lines += [random_line(rand, changes, 3) for _ in range(320)]
    print("# Made by scripts/cron_reference.py. Do not edit.")
    print("\n".join(dict.fromkeys(found for found in lines if found)))


main()
