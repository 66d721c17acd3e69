package bench

import "sync"

// keptComplaints bounds how many different error texts a run remembers; the rest are only counted.
const keptComplaints = 4

// complaints counts what went wrong on connections, and keeps the first few different texts for the report.
type complaints struct {
	mu    sync.Mutex
	count int64
	texts []string
}

func (c *complaints) add(err error) {
	text := err.Error()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	for _, t := range c.texts {
		if t == text {
			return
		}
	}
	if len(c.texts) < keptComplaints {
		c.texts = append(c.texts, text)
	}
}

// all returns the count and a copy of the texts.
func (c *complaints) all() (int64, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, append([]string(nil), c.texts...)
}
