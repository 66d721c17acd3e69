package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

// Outcome is the part of a reply that says how a request ended.
type Outcome struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
}

func (o *Outcome) ended(err error) {
	o.OK = err == nil
	if err != nil {
		o.Error = err.Error()
	}
}

// Serve makes the process a client program: it reads requests as JSON lines until there are no more, and answers each with one.
func Serve[Q, A any, P interface {
	*A
	ended(error)
}](perform func(r Q, reply *A) error) {
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var r Q
		var reply A
		if err = json.Unmarshal(line, &r); err == nil {
			err = perform(r, &reply)
		}
		P(&reply).ended(err)
		text, err := json.Marshal(reply)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("%s\n", text)
	}
}
