package mqtt

import (
	"github.com/mqgate/mqgate/router"
	"github.com/mqgate/mqgate/router/outbox"
)

// publish takes a PUBLISH packet. The answer follows when everything that is to be stored is stored.
func (c *conn) publish(first byte, body []byte) error {
	var p publish
	if err := decodePublish(&p, first, body, c.version); err != nil {
		return err
	}
	to, refused, err := c.target(&p)
	if err != nil {
		return err
	}
	if p.qos == 0 {
		if refused != nil {
			c.server.opt.Router.Stats.Refused.Add(1)
			return nil // MQTT has no word for it; the counter has
		}
		return c.publishFree(&p, to)
	}
	again, err := c.enter(&p) // [MQTT-4.3.2-5]
	if again || err != nil {
		return err
	}
	kind := byte(typePuback) // [MQTT-3.3.4-1]
	if p.qos == 2 {
		kind = typePubrec
	}
	if refused != nil {
		return c.refusePublish(kind, p.id, refused)
	}
	m, err := c.message(&p, to)
	if err != nil {
		return err
	}
	r := c.expect(kind, p.id, m.Size())
	if r == nil {
		return nil // readAll sees why
	}
	if p.qos == 2 && c.durable != nil {
		c.durable.noteAndPublish(m, r)
		return nil
	}
	c.hand(m, r, &c.batch) // [MQTT-4.3.3-13]
	return nil
}

// hand publishes a message whose outcome a reply waits for.
func (c *conn) hand(m *router.Message, r *reply, w *outbox.Batch) {
	if c.durable != nil { // others publish for it as well
		c.durable.turn.Lock()
		defer c.durable.turn.Unlock()
	}
	pending, err := c.session.Publish(c.life, m, w, r.stored)
	if !pending {
		r.done(router.Stored{}, err, w)
	}
}

// publishFree publishes a message of QoS 0.
func (c *conn) publishFree(p *publish, to router.Address) error {
	m, err := c.message(p, to)
	if err != nil {
		return err
	}
	if r := c.expect(0, 0, m.Size()); r != nil {
		c.hand(m, r, &c.batch)
	}
	return nil
}

// refusePublish answers what cannot be published to its topic.
func (c *conn) refusePublish(kind byte, id uint16, cause error) error {
	c.server.opt.Router.Stats.Refused.Add(1)
	code := reasonOf(cause)
	if c.version != v5 {
		return &fault{code: code, text: "the topic of a PUBLISH is not valid", cause: cause}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind == typePubrec {
		c.refuse(id, true)
	}
	c.answerWhy(&c.batch, kind, id, code, publicText(cause))
	return nil
}

// target reads the topic name or its alias. Refused is why the topic cannot be published to; err ends the connection.
func (c *conn) target(p *publish) (to router.Address, refused, err error) {
	if len(p.topic) == 0 {
		if p.alias == 0 { // [MQTT-4.7.3-1]
			return to, nil, faulty(protocolError, "PUBLISH has neither a topic nor a topic alias")
		}
		if int(p.alias) > len(c.aliases) || c.aliases[p.alias-1].IsZero() {
			return to, nil, faulty(c.aliasReason(p.alias), "topic alias %d was not set", p.alias)
		}
		return c.aliases[p.alias-1], nil, nil
	}
	if p.alias != 0 && int(p.alias) > c.server.opt.TopicAliases { // [MQTT-3.3.2-9] [MQTT-3.2.2-17]
		return to, nil, faulty(badAlias, "topic alias %d is above the maximum of %d", p.alias, c.server.opt.TopicAliases)
	}
	to, known := c.topics[string(p.topic)]
	if !known {
		if to, refused, err = c.parseTopic(string(p.topic)); refused != nil || err != nil {
			return to, refused, err
		}
	}
	if p.alias != 0 {
		if c.aliases == nil {
			c.aliases = make([]router.Address, c.server.opt.TopicAliases) // [MQTT-3.3.2-12]
		}
		c.aliases[p.alias-1] = to
	}
	return to, nil, nil
}

func (c *conn) aliasReason(alias uint16) reason {
	if int(alias) > c.server.opt.TopicAliases {
		return badAlias
	}
	return protocolError
}

func (c *conn) parseTopic(topic string) (to router.Address, refused, err error) {
	if !validText([]byte(topic)) { // [MQTT-3.3.2-1] [MQTT-4.7.3-2]
		return to, nil, faulty(malformed, "the topic is not valid UTF-8, or contains U+0000")
	}
	for i := range len(topic) {
		if topic[i] == '+' || topic[i] == '#' { // [MQTT-3.3.2-2] [MQTT-4.7.0-1]
			return to, nil, faulty(badTopic, "the topic %.64q has a wildcard", topic)
		}
	}
	if to, refused = router.ParseMQTTTopic(c.session.Vhost, topic); refused != nil {
		return to, refused, nil
	}
	if c.topics == nil || len(c.topics) >= maxTopics {
		c.topics = map[string]router.Address{}
	}
	c.topics[topic] = to
	return to, nil, nil
}

// acknowledged takes PUBACK, PUBREC, PUBREL and PUBCOMP.
func (c *conn) acknowledged(kind byte, body []byte) error {
	a, err := decodeAcknowledgement(kind, body, c.version)
	if err != nil {
		return err
	}
	switch kind {
	case typePuback:
		return c.puback(a)
	case typePubrec:
		return c.pubrec(a)
	case typePubcomp:
		return c.pubcomp(a)
	}
	c.pubrel(a)
	return nil
}
