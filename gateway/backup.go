package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/mqgate/mqgate/config"
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/jetstream"
)

// backup writes all that is stored, while clients work.
func (g *Gateway) backup(ctx context.Context, w io.Writer) error {
	began := time.Now()
	store := g.store
	if m := g.member; m != nil {
		if _, store = m.leading(); store == nil {
			leader, _ := m.lease()
			return &router.Error{Op: "backup", Class: router.Conflict, Text: fmt.Sprintf("the leader of the cluster makes backups: ask node %q", leader)}
		}
	}
	b, err := store.WriteBackup(ctx, w)
	if err != nil {
		return err
	}
	g.log.Info("backup made", "streams", len(b.Streams), "messages", b.Messages(), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// BackupSummary is what a backup holds.
type BackupSummary struct {
	Node     string    `json:"node"`
	Began    time.Time `json:"began"`
	Streams  int       `json:"streams"`
	Messages uint64    `json:"messages"`
}

func summary(b *jetstream.Backup) BackupSummary {
	return BackupSummary{Node: b.Node, Began: b.Began, Streams: len(b.Streams), Messages: b.Messages()}
}

// VerifyBackup reads a backup and returns an error unless it is complete.
func VerifyBackup(r io.Reader) (BackupSummary, error) {
	b, err := jetstream.VerifyBackup(r)
	if err != nil {
		return BackupSummary{}, err
	}
	return summary(b), nil
}

// Restore makes the data directory of a configuration, which must be empty, of a
// backup in a file. No gateway may run on it.
func Restore(ctx context.Context, cfg *config.Config, log *slog.Logger, file string) (BackupSummary, error) {
	f, err := os.Open(file)
	if err != nil {
		return BackupSummary{}, fmt.Errorf("open the backup: %w", err)
	}
	defer f.Close()
	b, err := jetstream.Restore(ctx, jetstream.Options{Dir: cfg.DataDir, NodeName: cfg.NodeName, Log: log}, f)
	if err != nil {
		return BackupSummary{}, fmt.Errorf("restore %s: %w", file, err)
	}
	return summary(b), nil
}
