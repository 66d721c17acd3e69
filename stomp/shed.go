package stomp

// Shed has up to n connections end as Drain has all, and returns how many it told; 0 means that there are none left to
// tell. It refuses no new ones, and does not wait.
func (s *Server) Shed(n int) int {
	var chosen []*conn
	s.mu.Lock()
	for c := range s.conns {
		if len(chosen) == n {
			break
		}
		if c.ending.Load() == nil {
			chosen = append(chosen, c)
		}
	}
	s.mu.Unlock()
	for _, c := range chosen {
		c.stop(errDraining)
	}
	return len(chosen)
}
