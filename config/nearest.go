package config

import "strings"

// didYouMean returns a hint with the candidate nearest to what was written, or
// with the candidates themselves when none is near.
func didYouMean(written string, candidates []string) string {
	if best := nearest(written, candidates); best != "" {
		return "did you mean " + best + "?"
	}
	const most = 12
	if len(candidates) == 0 || len(candidates) > most {
		return `"mqgate config default" prints all keys`
	}
	return "the keys here are " + strings.Join(candidates, ", ")
}

// nearest returns the candidate with the fewest edits, or "" if even that one
// is more than a third of the word away.
func nearest(written string, candidates []string) string {
	// Longer words are not typing errors, and the distance is quadratic.
	const most = 64
	if len(written) > most {
		return ""
	}
	best, fewest := "", max(2, len(written)/3)+1
	for _, c := range candidates {
		if d := edits(strings.ToLower(written), strings.ToLower(c)); d < fewest && d < len(c) {
			best, fewest = c, d
		}
	}
	return best
}

// edits counts the insertions, deletions, replacements and swaps of neighbours
// between a and b (optimal string alignment).
func edits(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
