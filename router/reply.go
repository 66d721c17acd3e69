package router

import "strings"

// temporaryReplies are the names that STOMP has for temporary destinations of other
// connections, and those that every protocol has for the same.
var temporaryReplies = [...]struct{ stomp, plain string }{
	{"/remote-temp-queue/", "/queue/"}, {"/remote-temp-topic/", "/topic/"}, {"/reply-queue/", "/queue/"},
}

// PlainReplyTo writes a reply-to in which STOMP names a temporary destination as the
// queue or topic that it is, to which clients of all protocols can send. Any other text
// stays as it is.
func PlainReplyTo(text string) string {
	for _, t := range temporaryReplies {
		if name, ok := strings.CutPrefix(text, t.stomp); ok && strings.HasPrefix(name, "temp.") {
			return t.plain + name
		}
	}
	return text
}
