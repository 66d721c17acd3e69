package ws

// Shed has up to n JSON clients end as Drain has all, and returns how many it
// told; 0 means that there are none left to tell. Streams are shed by the STOMP
// and MQTT servers inside.
func (s *Server) Shed(n int) int {
	told := 0
	for _, c := range s.connections() {
		if j, json := c.(*client); json && told < n && j.ending.Load() == nil {
			j.depart(errDraining)
			told++
		}
	}
	return told
}
