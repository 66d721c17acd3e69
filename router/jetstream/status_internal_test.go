package jetstream

import "testing"

func TestANodeThatWasNeverMetHasAShortName(t *testing.T) {
	for in, want := range map[string]string{"n1": "n1", "": "", "Server name unknown at this time (peerID: 44jzkV9D)": "(unknown,44jzkV9D)"} {
		if got := nodeName(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}
