package admin

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/mqgate/mqgate/router"
)

func TestBackupIsStreamed(t *testing.T) {
	f := newFixture(t)
	f.backup = func(w io.Writer) error { _, err := io.WriteString(w, "all of it"); return err }
	if code, body := f.do(true, request("POST", "/api/v1/backup"), nil); code != 200 || body != "all of it" {
		t.Errorf("backup %d %q", code, body)
	}
	if code, _ := f.do(false, request("POST", "/api/v1/backup"), nil); code != 403 {
		t.Errorf("a stranger gets a backup: %d", code)
	}
	f.backup = func(io.Writer) error {
		return &router.Error{Op: "backup", Class: router.Conflict, Text: "another backup is being made"}
	}
	if code, body := f.do(true, request("POST", "/api/v1/backup"), nil); code != 409 {
		t.Errorf("backup %d %q", code, body)
	}
}

// A backup that fails on its way must not look like one that ended.
func TestABackupThatFailsIsCutOff(t *testing.T) {
	f := newFixture(t)
	f.backup = func(w io.Writer) error {
		_, err := io.WriteString(w, "a part")
		return errors.Join(err, errors.New("the disk is gone"))
	}
	srv := httptest.NewServer(Handler(f.opt, true))
	defer srv.Close()
	resp, err := http.Post(srv.URL+"/api/v1/backup", "", nil)
	if err != nil {
		return // cut off before its head: also noticed
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("read %q to its end", body)
	}
}
