// Package cron reads crontab lines of five fields (minute, hour, day of the month,
// month, day of the week) and tells when one is due next. It is a leaf: it imports
// nothing of the product, starts nothing and knows no clock.
package cron

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Line is a crontab line. Each field is a set of bits.
type Line struct {
	minute, hour, day, month, weekday uint64
	// Whether every day is meant: if both fields say which, either will do.
	anyDay, anyWeekday bool
}

// fields are the ranges, in order. Sunday is 0 or 7.
var fields = [...]struct {
	name     string
	min, max int
}{{"minute", 0, 59}, {"hour", 0, 23}, {"day of the month", 1, 31}, {"month", 1, 12}, {"day of the week", 0, 7}}

// maxText bounds a line; one that lists every minute is shorter.
const maxText = 512

// Parse reads a line such as "*/15 8-17 * * 1-5".
func Parse(text string) (Line, error) {
	parts := strings.Fields(text)
	if len(text) > maxText || len(parts) != len(fields) {
		return Line{}, fmt.Errorf("%.64q does not have the five fields minute, hour, day, month and weekday", text)
	}
	var sets [len(fields)]uint64
	for i, p := range parts {
		set, err := parseField(p, fields[i].min, fields[i].max)
		if err != nil {
			return Line{}, fmt.Errorf("%s: %w", fields[i].name, err)
		}
		sets[i] = set
	}
	l := Line{minute: sets[0], hour: sets[1], day: sets[2], month: sets[3], weekday: sets[4],
		anyDay: strings.HasPrefix(parts[2], "*"), anyWeekday: strings.HasPrefix(parts[4], "*")}
	if l.weekday&(1<<7) != 0 {
		l.weekday |= 1
	}
	return l, nil
}

func parseField(text string, least, most int) (set uint64, err error) {
	for part := range strings.SplitSeq(text, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		from, to, step := least, most, 1
		switch first, last, ranged := strings.Cut(span, "-"); {
		case span == "*":
		case ranged:
			if from, err = number(first, least, most); err == nil {
				to, err = number(last, from, most)
			}
		default:
			from, err = number(span, least, most)
			if to = from; stepped {
				to = most
			}
		}
		if err == nil && stepped {
			step, err = number(stepText, 1, most)
		}
		if err != nil {
			return 0, err
		}
		for n := from; n <= to; n += step {
			set |= 1 << n
		}
	}
	return set, nil
}

func number(text string, least, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%.16q is not a number from %d to %d", text, least, most)
	}
	return n, nil
}

// horizonYears is how far Next looks: leap days are at most 8 years apart.
const horizonYears = 9

// Next returns the first time after t, in t's zone, that the line names, or the zero
// time if it names none, such as 31 February. A time that the clock leaves out when
// it is put forward is left out.
func (l Line) Next(t time.Time) time.Time {
	end := t.AddDate(horizonYears, 0, 0)
	t = t.Truncate(time.Minute).Add(time.Minute)
	for t.Before(end) {
		switch {
		case l.month&(1<<t.Month()) == 0:
			t = later(t, time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, t.Location()))
		case !l.onDay(t):
			t = later(t, time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, t.Location()))
		case l.hour&(1<<t.Hour()) == 0:
			t = t.Add(time.Duration(60-t.Minute()) * time.Minute)
		case l.minute&(1<<t.Minute()) == 0:
			t = t.Add(time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

// later makes sure of progress where a clock that is put back repeats a midnight.
func later(t, next time.Time) time.Time {
	if next.After(t) {
		return next
	}
	return t.Add(time.Hour)
}

func (l Line) onDay(t time.Time) bool {
	day, weekday := l.day&(1<<t.Day()) != 0, l.weekday&(1<<t.Weekday()) != 0
	if l.anyDay || l.anyWeekday {
		return day && weekday
	}
	return day || weekday
}
