package router

import "testing"

func TestPlainReplyTo(t *testing.T) {
	for text, want := range map[string]string{
		"/remote-temp-queue/temp.a-1.answers": "/queue/temp.a-1.answers",
		"/reply-queue/temp.a-1.answers":       "/queue/temp.a-1.answers",
		"/remote-temp-topic/temp.a-1.news":    "/topic/temp.a-1.news",
		"/remote-temp-queue/orders":           "/remote-temp-queue/orders",
		"/queue/orders":                       "/queue/orders",
		"somebody":                            "somebody",
		"":                                    "",
	} {
		if got := PlainReplyTo(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
