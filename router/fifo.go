package router

// fifo is a first-in first-out queue in a growing ring.
type fifo[T comparable] struct {
	ring  []T
	start int
	n     int
}

func (q *fifo[T]) len() int { return q.n }

func (q *fifo[T]) push(v T) {
	if q.n == len(q.ring) {
		grown := make([]T, max(8, 2*len(q.ring)))
		for i := range q.n {
			grown[i] = q.ring[(q.start+i)%len(q.ring)]
		}
		q.ring, q.start = grown, 0
	}
	q.ring[(q.start+q.n)%len(q.ring)] = v
	q.n++
}

// first returns the oldest; the queue must not be empty.
func (q *fifo[T]) first() T { return q.ring[q.start] }

// latest returns the newest; the queue must not be empty.
func (q *fifo[T]) latest() T { return q.ring[(q.start+q.n-1)%len(q.ring)] }

func (q *fifo[T]) dropLatest() {
	var zero T
	q.n--
	q.ring[(q.start+q.n)%len(q.ring)] = zero
}

func (q *fifo[T]) pop() T {
	var zero T
	v := q.ring[q.start]
	q.ring[q.start] = zero
	q.start = (q.start + 1) % len(q.ring)
	q.n--
	if q.n == 0 && len(q.ring) > 1024 {
		q.reset() // an idle queue keeps no large ring
	}
	return v
}

func (q *fifo[T]) reset() { *q = fifo[T]{} }

// remove takes out the first v, wherever it stands.
func (q *fifo[T]) remove(v T) {
	for i := range q.n {
		if q.ring[(q.start+i)%len(q.ring)] != v {
			continue
		}
		if i < q.n/2 { // close the gap from the nearer end
			for ; i > 0; i-- {
				q.ring[(q.start+i)%len(q.ring)] = q.ring[(q.start+i-1)%len(q.ring)]
			}
			q.pop()
			return
		}
		for ; i < q.n-1; i++ {
			q.ring[(q.start+i)%len(q.ring)] = q.ring[(q.start+i+1)%len(q.ring)]
		}
		q.dropLatest()
		return
	}
}
