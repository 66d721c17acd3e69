package gateway

import (
	"testing"
	"time"

	"github.com/mqgate/mqgate/config"
)

// TestWhoAcceptsDamage: where a flush is not waited for, a power cut loses messages by choice. Ours says nothing of a NATS elsewhere.
func TestWhoAcceptsDamage(t *testing.T) {
	for _, x := range []struct {
		sync     config.Sync
		url      string
		onDamage string
		accepts  bool
	}{
		{config.Sync{}, "", config.OnDamageRefuse, false},
		{config.Sync{}, "", config.OnDamageContinue, true},
		{config.Sync{Interval: time.Second}, "", config.OnDamageRefuse, true},
		{config.Sync{Interval: time.Second}, "nats://n", config.OnDamageRefuse, false},
		{config.Sync{Interval: time.Second}, "nats://n", config.OnDamageContinue, true},
	} {
		c := config.Default()
		c.Storage.Sync, c.Nats.URL, c.Storage.OnDamage = x.sync, x.url, x.onDamage
		if got := acceptsDamage(c); got != x.accepts {
			t.Errorf("%+v: %t", x, got)
		}
	}
}
