package stomp

import "fmt"

// Dialect is whose habits a listener follows where STOMP leaves them open.
type Dialect uint8

const (
	// ActiveMQ follows ActiveMQ Classic: NACK makes a dead letter, text messages have no content-length, the host header
	// has no meaning, composite destinations and virtual topics exist.
	ActiveMQ Dialect = iota
	// RabbitMQ follows RabbitMQ: NACK returns the message to its queue, content-length is always given, the host header is
	// the vhost, which has to be "/", cumulative acknowledgement covers all subscriptions of the connection.
	RabbitMQ
)

// String returns the name as configuration gives it.
func (d Dialect) String() string {
	if d == RabbitMQ {
		return "rabbitmq"
	}
	return "activemq"
}

// ParseDialect reads "activemq" or "rabbitmq".
func ParseDialect(s string) (Dialect, error) {
	for _, d := range [...]Dialect{ActiveMQ, RabbitMQ} {
		if s == d.String() {
			return d, nil
		}
	}
	return ActiveMQ, fmt.Errorf("unknown STOMP dialect %q: use activemq or rabbitmq", s)
}

func (d Dialect) rabbit() bool { return d == RabbitMQ }

// server is the server header. Clients choose their own behaviour by the product's name in it: stomp-php sends
// activemq.prefetchSize and durable names only if it reads "activemq".
func (d Dialect) server(version string) string {
	if d.rabbit() {
		return "RabbitMQ/3.12.0-compatible mqgate/" + version
	}
	return "ActiveMQ/5.18.0-compatible mqgate/" + version
}
