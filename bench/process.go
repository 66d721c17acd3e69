package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// ticksPerSecond is the unit of CPU times in /proc. Linux shows them to programs in 1/100 s on every architecture that
	// Go supports, whatever the kernel's own tick.
	ticksPerSecond = 100
	mib            = 1 << 20

	peakInterval = 200 * time.Millisecond
	// treeInterval is how often the process table is searched for descendants, which reads a file for every process.
	treeInterval = time.Second
)

// processes reads the CPU time and memory of some processes and all their descendants. A nil one reads zeros.
type processes struct {
	proc  string // where procfs is
	roots []int

	mu        sync.Mutex
	members   []int
	peakBytes int64
}

// watchProcesses finds the trees of roots; nil without roots.
func watchProcesses(proc string, roots []int) (*processes, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	for _, pid := range roots {
		if _, ok := readStat(proc, pid); !ok {
			return nil, fmt.Errorf("--pid %d: no such process in %s: give the broker's process id on this machine", pid, proc)
		}
	}
	p := &processes{proc: proc, roots: roots}
	p.findMembers()
	return p, nil
}

// samplePeak keeps the peak of the memory up to date until quit is closed.
func (p *processes) samplePeak(quit <-chan struct{}) {
	tick := time.NewTicker(peakInterval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-quit:
			return
		case <-tick.C:
			if n%int(treeInterval/peakInterval) == 0 {
				p.findMembers()
			}
			p.residentBytes()
		}
	}
}

// findMembers takes the roots and everything below them in the process table.
func (p *processes) findMembers() {
	children := map[int][]int{}
	paths, _ := filepath.Glob(filepath.Join(p.proc, "[0-9]*"))
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if s, ok := readStat(p.proc, pid); ok {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	members := append([]int(nil), p.roots...)
	known := map[int]bool{}
	for _, pid := range members {
		known[pid] = true
	}
	for i := 0; i < len(members); i++ {
		for _, child := range children[members[i]] {
			if !known[child] {
				known[child] = true
				members = append(members, child)
			}
		}
	}
	p.mu.Lock()
	p.members = members
	p.mu.Unlock()
}

// cpuSeconds is what the trees have used so far, descendants that ended included.
func (p *processes) cpuSeconds() float64 {
	if p == nil {
		return 0
	}
	p.findMembers()
	p.mu.Lock()
	defer p.mu.Unlock()
	ticks := int64(0)
	for _, pid := range p.members {
		if s, ok := readStat(p.proc, pid); ok {
			ticks += s.ticks
		}
	}
	return float64(ticks) / ticksPerSecond
}

// residentBytes is the memory the trees hold now; pages that processes share count for each.
func (p *processes) residentBytes() int64 {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := int64(0)
	for _, pid := range p.members {
		b, err := os.ReadFile(filepath.Join(p.proc, strconv.Itoa(pid), "statm"))
		if err != nil {
			continue // it has ended
		}
		if f := strings.Fields(string(b)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			sum += pages * int64(os.Getpagesize())
		}
	}
	p.peakBytes = max(p.peakBytes, sum)
	return sum
}

func (p *processes) peakMiB() float64 {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return float64(p.peakBytes) / mib
}

// processStat is what we need of /proc/PID/stat.
type processStat struct {
	parent int
	ticks  int64 // user and system time, of itself and of the children it has waited for
}

func readStat(proc string, pid int) (processStat, bool) {
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return processStat{}, false
	}
	return parseStat(string(b))
}

// parseStat reads "pid (name) state ppid ...". The name may hold anything, parentheses too, so fields count from the last ')'.
func parseStat(text string) (processStat, bool) {
	const parentField, utimeField, lastField = 1, 11, 14 // state is 0; then utime, stime, cutime, cstime
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return processStat{}, false
	}
	f := strings.Fields(text[end+1:])
	if len(f) <= lastField {
		return processStat{}, false
	}
	parent, err := strconv.Atoi(f[parentField])
	if err != nil {
		return processStat{}, false
	}
	s := processStat{parent: parent}
	for _, v := range f[utimeField : lastField+1] {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return processStat{}, false
		}
		s.ticks += n
	}
	return s, true
}

// ownCPUSeconds is what this process has used; 0 where there is no /proc.
func ownCPUSeconds(proc string) float64 {
	s, _ := readStat(proc, os.Getpid())
	return float64(s.ticks) / ticksPerSecond
}

// machineCPUSeconds is what all processes and the kernel have used, stolen time included; 0 where there is no /proc.
func machineCPUSeconds(proc string) float64 {
	const idle, iowait, guest = 3, 4, 8 // guest time is already in user time
	b, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(strings.TrimPrefix(line, "cpu"))
	ticks := int64(0)
	for i, f := range fields {
		if i == idle || i == iowait || i >= guest {
			continue
		}
		n, _ := strconv.ParseInt(f, 10, 64)
		ticks += n
	}
	return float64(ticks) / ticksPerSecond
}
