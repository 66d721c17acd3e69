// Package mqtt is the MQTT 3.1, 3.1.1 and 5.0 front-end: it turns the packets of a client into operations of a
// router.Session, and what the router delivers into packets.
//
// # What it is
//
// A Server serves any number of listeners and connections. Each connection has one goroutine, its reader; a writer exists
// only while something waits to be written (package outbox). The frequent packets are read and written here; the others by
// the codec of mochi-mqtt, whose panics are contained.
//
// # What it guarantees
//
//   - PUBACK and PUBREC leave after every stored copy is stored, never before, and in the order of the packets that they
//     answer. Where the store failed an MQTT 5 client gets a reason code; an older one is disconnected and sends again.
//   - A session that outlives its connection keeps its subscriptions, what it was sent and has not acknowledged under the
//     same packet identifiers, and both directions of QoS 2: nothing that was acknowledged is published or sent again,
//     whether the client reconnects or the gateway restarts in between.
//   - One connection per client id: the older one ends before the newer one's session begins. A session belongs to the user
//     that began it.
//   - A shared group gives each message to one client that is connected and may read it; what that one has not acknowledged
//     when its connection ends goes to another. Once a durable session is a member, messages wait while nobody is connected.
//   - Packet identifiers of the two directions are separate, and the client's receive maximum is exact.
//   - A subscriber that stops reading slows nobody: live messages beyond its bounds are dropped and counted, stored ones
//     stay in their mailbox. The client may take as long as it likes to read, if it keeps its keep alive.
//   - A clean session that takes its QoS 1 and 2 messages, if later than they come, loses none: its publishers' confirmations
//     wait for it. One that takes fewer than 5,000 a second while it lags is waited for 100 ms, and not again before it has
//     caught up.
//   - Every buffer is bounded. Nothing is allocated from a length that a client merely claims.
//   - A panic ends the connection that caused it and is counted.
//   - Clients that may read "$SYS/…" can follow what the gateway tells of itself there (package gateway, systemValues); wildcards
//     do not match it, and no client publishes to it.
//
// # What it never does
//
// It stores nothing, decides no rights (router.Authenticator and the router's Authorizer do), opens no port and knows no
// configuration file.
//
// # Limits that are known
//
//   - A QoS 2 publish whose outcome a crash left unknown, or that the store has not answered 15 seconds after the connection's end,
//     is told from its repetition by the store, which remembers for two minutes; a client that comes back later has it published
//     twice if it was stored.
//   - Shared subscriptions are granted QoS 1 at most. What a member has not acknowledged when its connection ends comes under
//     another packet identifier, also if it comes to the same client again.
//   - In a cluster "$SYS/" tells of all nodes together, but for version, uptime and store, which are of the client's node.
//   - The wills of those who were connected when a gateway died are published three seconds after its start, in a cluster
//     five seconds after another node has taken the lead, so that who subscribes to them can be back; a client that comes back
//     before has its own published then, if it starts clean.
//   - A will whose publication a crash or the loss of a leader interrupted is published again afterwards. What is stored of it is
//     stored once; who is subscribed live may get it twice.
//   - There is no enhanced authentication.
//
// # Where the specification is obeyed
//
// Clauses of MQTT 5, the lines that obey them (in these files, marked with the clause) and the tests that would fail
// otherwise (marked likewise). Clauses that bind clients only are left out.
//
//	MQTT-1.5.4-1   text is UTF-8                                mqtt/packet.go         TestMalformedPackets
//	MQTT-1.5.4-2   no U+0000 in text                            mqtt/packet.go         TestMalformedPackets
//	MQTT-1.5.4-3   U+FEFF is a character                        mqtt/packet.go         TestTopicMatching
//	MQTT-1.5.5-1   variable byte integers are short             mqtt/encode.go         TestVarints
//	MQTT-1.5.7-1   string pairs are text                        mqtt/packet.go         TestMalformedPackets
//	MQTT-2.1.3-1   reserved flags                               mqtt/packet.go         TestMalformedPackets
//	MQTT-2.2.1-2   no identifier with QoS 0                     mqtt/packet.go         TestMalformedPackets
//	MQTT-2.2.1-3   identifiers are not 0                        mqtt/packet.go         TestMalformedPackets
//	MQTT-2.2.1-4   an unused identifier for each delivery       mqtt/window.go         TestDeliveryFlows
//	MQTT-2.2.1-5   acknowledgements have the identifier         mqtt/encode.go         TestPublishReachesSubscribersWithTheLowerQoS
//	MQTT-2.2.1-6   SUBACK and UNSUBACK have it too              mqtt/filters.go        TestSubackAnswersEachFilter
//	MQTT-2.2.2-1   a length of 0 for no properties              mqtt/filters.go        TestMalformedPackets
//	MQTT-3.1.0-1   CONNECT is first                             mqtt/conn.go           TestMalformedPackets
//	MQTT-3.1.0-2   and there is one                             mqtt/conn.go           TestMalformedPackets
//	MQTT-3.1.2-1   protocol name                                mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-2   protocol level                               mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-3   reserved flag                                mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-4   a clean start discards the session           router/durable.go      TestSessionPresent
//	MQTT-3.1.2-5   else it is resumed                           router/durable.go      TestSessionPresent
//	MQTT-3.1.2-6   or made                                      router/durable.go      TestSessionPresent
//	MQTT-3.1.2-7   the will is stored with the session          router/durable.go      TestWillSurvivesACrash
//	MQTT-3.1.2-8   and published at the connection's end        mqtt/conn.go           TestWill
//	MQTT-3.1.2-9   will topic and payload                       mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-10  the will is forgotten with DISCONNECT        mqtt/conn.go           TestWill
//	MQTT-3.1.2-11  will QoS without a will                      mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-12  will QoS 3                                   mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-13  will retain without a will                   mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-14  a will that is not retained                  mqtt/connect.go        TestWillRetainAndProperties
//	MQTT-3.1.2-15  one that is                                  mqtt/connect.go        TestWillRetainAndProperties
//	MQTT-3.1.2-16  no user name without its flag                mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-17  a user name with it                          mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-18  no password without its flag                 mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-19  a password with it                           mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.2-22  silence for 1.5 times the keep alive         mqtt/conn.go           TestKeepAlive
//	MQTT-3.1.2-23  sessions outlive connections                 router/durable.go      TestSessionPresent
//	MQTT-3.1.2-24  no packet above the client's maximum         mqtt/replies.go        TestReasonStrings
//	MQTT-3.1.2-25  a message above it counts as sent            mqtt/window.go         TestMaximumPacketSizeOfTheClient
//	MQTT-3.1.2-26  no alias above the client's maximum          mqtt/window.go         TestTopicAliases
//	MQTT-3.1.2-27  nor without one                              mqtt/window.go         TestTopicAliases
//	MQTT-3.1.2-28  no response information                      mqtt/connect.go        TestConnackProperties
//	MQTT-3.1.2-29  no reason strings where unwanted             mqtt/replies.go        TestReasonStrings
//	MQTT-3.1.3-1   order of CONNECT's fields                    mqtt/connectpacket.go  TestWillRetainAndProperties
//	MQTT-3.1.3-2   the client id names the session              router/durable.go      TestSessionPresent
//	MQTT-3.1.3-3   a client id is there                         mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.3-4   and is text                                  mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.3-5   long ones are allowed                        mqtt/connect.go        TestAssignedClientID
//	MQTT-3.1.3-6   one is assigned                              mqtt/connect.go        TestAssignedClientID
//	MQTT-3.1.3-7   and is the client's                          mqtt/connect.go        TestAssignedClientID
//	MQTT-3.1.3-8   or refused                                   mqtt/connect.go        TestMalformedConnect
//	MQTT-3.1.3-9   a will with a delay                          router/durable.go      TestWillWithDelay
//	MQTT-3.1.3-10  order of its user properties                 mqtt/connect.go        TestWillRetainAndProperties
//	MQTT-3.1.3-11  its topic is text                            mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.3-12  the user name is text                        mqtt/connectpacket.go  TestMalformedConnect
//	MQTT-3.1.4-1   CONNECT is checked                           mqtt/connect.go        TestMalformedConnect
//	MQTT-3.1.4-2   and authorised                               mqtt/connect.go        TestConnackCodes
//	MQTT-3.1.4-3   takeover                                     mqtt/connect.go        TestTakeoverClosesTheOldConnectionFirst
//	MQTT-3.1.4-4   clean start is processed                     mqtt/connect.go        TestSessionPresent
//	MQTT-3.1.4-5   CONNACK says success                         mqtt/connect.go        TestConnackComesFirstAndOnce
//	MQTT-3.1.4-6   nothing is done after a refusal              mqtt/connect.go        TestMalformedConnect
//	MQTT-3.2.0-1   CONNACK is first                             mqtt/connect.go        TestConnackComesFirstAndOnce
//	MQTT-3.2.0-2   and there is one                             mqtt/conn.go           TestConnackComesFirstAndOnce
//	MQTT-3.2.2-1   its reserved flags                           mqtt/connect.go        TestConnackComesFirstAndOnce
//	MQTT-3.2.2-2   session present after a clean start          mqtt/connect.go        TestSessionPresent
//	MQTT-3.2.2-3   and else                                     mqtt/connect.go        TestSessionPresent
//	MQTT-3.2.2-6   no session present in a refusal              mqtt/connect.go        TestMalformedConnect
//	MQTT-3.2.2-7   a refusal closes                             mqtt/connect.go        TestMalformedConnect
//	MQTT-3.2.2-8   its reason codes                             mqtt/codes.go          TestConnackCodes
//	MQTT-3.2.2-9   every QoS is supported                       mqtt/connect.go        TestConnackProperties
//	MQTT-3.2.2-15  packets above the server's maximum           mqtt/frame.go          TestR25LengthsAreNotTrusted
//	MQTT-3.2.2-16  assigned ids are unique                      mqtt/connect.go        TestAssignedClientID
//	MQTT-3.2.2-17  aliases above the server's maximum           mqtt/publish.go        TestMalformedPackets
//	MQTT-3.2.2-19  a reason string that is too large            mqtt/connect.go        TestReasonStrings
//	MQTT-3.2.2-22  the client's own keep alive                  mqtt/connect.go        TestConnackProperties
//	MQTT-3.3.1-1   DUP when sent again                          mqtt/feed.go           TestSessionKeepsMessagesInOrder
//	MQTT-3.3.1-2   no DUP with QoS 0                            mqtt/packet.go         TestMalformedPackets
//	MQTT-3.3.1-3   DUP is not passed on                         mqtt/message.go        TestDupIsNotPassedOn
//	MQTT-3.3.1-4   QoS 3                                        mqtt/packet.go         TestMalformedPackets
//	MQTT-3.3.1-5   a retained message is replaced               router/retained.go     TestRetainedIsReplacedAndRemoved
//	MQTT-3.3.1-6   an empty one removes it                      router/retained.go     TestRetainedIsReplacedAndRemoved
//	MQTT-3.3.1-7   and is not kept                              router/retained.go     TestRetainedIsReplacedAndRemoved
//	MQTT-3.3.1-8   one without RETAIN changes nothing           router/retained.go     TestRetainedIsReplacedAndRemoved
//	MQTT-3.3.1-9   retain handling 0                            mqtt/subscribe.go      TestRetainHandling
//	MQTT-3.3.1-10  retain handling 1                            mqtt/subscribe.go      TestRetainHandling
//	MQTT-3.3.1-11  retain handling 2                            mqtt/subscribe.go      TestRetainHandling
//	MQTT-3.3.1-12  RETAIN is 0 for live messages                mqtt/feed.go           TestRetainedIsReplacedAndRemoved
//	MQTT-3.3.1-13  unless as published                          mqtt/feed.go           TestNoLocalAndRetainAsPublished
//	MQTT-3.3.2-1   the topic is text                            mqtt/publish.go        TestMalformedPackets
//	MQTT-3.3.2-2   without wildcards                            mqtt/publish.go        TestMalformedPackets
//	MQTT-3.3.2-3   and matches the filter                       router/match.go        TestTopicMatching
//	MQTT-3.3.2-4   payload format travels                       mqtt/encode.go         TestPropertiesTravel
//	MQTT-3.3.2-5   expired messages are not sent                router/session.go      TestMessageExpiry
//	MQTT-3.3.2-6   the rest of the interval                     mqtt/window.go         TestMessageExpiry
//	MQTT-3.3.2-7   aliases end with the connection              mqtt/window.go         TestR5StoredMessagesKeepTheirTopic
//	MQTT-3.3.2-8   alias 0                                      mqtt/packet.go         TestMalformedPackets
//	MQTT-3.3.2-9   alias above the maximum                      mqtt/publish.go        TestMalformedPackets
//	MQTT-3.3.2-11  aliases of ours                              mqtt/window.go         TestTopicAliases
//	MQTT-3.3.2-12  all aliases up to the maximum                mqtt/publish.go        TestTopicAliases
//	MQTT-3.3.2-13  the response topic is text                   mqtt/packet.go         TestMalformedPackets
//	MQTT-3.3.2-14  without wildcards                            mqtt/message.go        TestMalformedPackets
//	MQTT-3.3.2-15  and travels                                  mqtt/encode.go         TestPropertiesTravel
//	MQTT-3.3.2-16  correlation data travel                      mqtt/encode.go         TestPropertiesTravel
//	MQTT-3.3.2-17  user properties travel                       mqtt/encode.go         TestPropertiesTravel
//	MQTT-3.3.2-18  in order                                     mqtt/encode.go         TestPropertiesTravel
//	MQTT-3.3.2-19  the content type is text                     mqtt/packet.go         TestMalformedPackets
//	MQTT-3.3.2-20  and travels                                  mqtt/encode.go         TestPropertiesTravel
//	MQTT-3.3.4-1   PUBLISH is answered by its QoS               mqtt/publish.go        TestPublishReachesSubscribersWithTheLowerQoS
//	MQTT-3.3.4-2   overlapping subscriptions                    mqtt/session.go        TestOverlappingSubscriptions
//	MQTT-3.3.4-3   subscription identifiers                     mqtt/encode.go         TestOverlappingSubscriptions
//	MQTT-3.3.4-4   all of one copy                              mqtt/session.go        TestOverlappingSubscriptions
//	MQTT-3.3.4-5   or one of each copy                          mqtt/feed.go           TestOverlappingSubscriptions
//	MQTT-3.3.4-6   none from a client                           mqtt/packet.go         TestMalformedPackets
//	MQTT-3.3.4-7   the server's receive maximum                 mqtt/received.go       TestReceiveMaximumOfTheServer
//	MQTT-3.3.4-9   the client's receive maximum                 mqtt/connect.go        TestReceiveMaximumIsExact
//	MQTT-3.3.4-10  stops nothing else                           mqtt/feed.go           TestUnacknowledgedReleaseAndManyRetainedKeepTheFlow
//	MQTT-3.4.2-1   PUBACK's reason codes                        mqtt/codes.go          TestReasonStrings
//	MQTT-3.4.2-2   its reason string fits                       mqtt/replies.go        TestReasonStrings
//	MQTT-3.5.2-1   PUBREC's reason codes                        mqtt/codes.go          TestReasonStrings
//	MQTT-3.5.2-2   its reason string fits                       mqtt/replies.go        TestReasonStrings
//	MQTT-3.6.1-1   PUBREL's flags                               mqtt/packet.go         TestMalformedPackets
//	MQTT-3.6.2-1   PUBREL's reason codes                        mqtt/window.go         TestPubrelOfUnknownID
//	MQTT-3.7.2-1   PUBCOMP's reason codes                       mqtt/received.go       TestPubrelOfUnknownID
//	MQTT-3.8.1-1   SUBSCRIBE's flags                            mqtt/packet.go         TestMalformedPackets
//	MQTT-3.8.3-1   filters are text                             mqtt/filters.go        TestMalformedPackets
//	MQTT-3.8.3-2   and there is one                             mqtt/filters.go        TestMalformedPackets
//	MQTT-3.8.3-3   no local                                     router/session.go      TestNoLocalAndRetainAsPublished
//	MQTT-3.8.3-4   not for shared subscriptions                 mqtt/subscribe.go      TestMalformedPackets
//	MQTT-3.8.3-5   reserved bits of the options                 mqtt/filters.go        TestMalformedPackets
//	MQTT-3.8.4-1   SUBACK follows                               mqtt/subscribe.go      TestSubackAnswersEachFilter
//	MQTT-3.8.4-2   with the identifier                          mqtt/subscribe.go      TestSubackAnswersEachFilter
//	MQTT-3.8.4-3   the same filter replaces                     mqtt/subscribe.go      TestSubscribeAgainReplaces
//	MQTT-3.8.4-4   and loses nothing                            mqtt/subscribe.go      TestSubscribeAgainReplaces
//	MQTT-3.8.4-5   several filters                              mqtt/subscribe.go      TestSubackAnswersEachFilter
//	MQTT-3.8.4-6   a code for each                              mqtt/subscribe.go      TestSubackAnswersEachFilter
//	MQTT-3.8.4-7   QoS granted, or why not                      mqtt/subscribe.go      TestSubackAnswersEachFilter
//	MQTT-3.8.4-8   the lower QoS                                mqtt/feed.go           TestPublishReachesSubscribersWithTheLowerQoS
//	MQTT-3.9.2-1   SUBACK's reason string fits                  mqtt/replies.go        TestReasonStrings
//	MQTT-3.9.3-1   its codes are in order                       mqtt/filters.go        TestSubackAnswersEachFilter
//	MQTT-3.9.3-2   and exist                                    mqtt/subscribe.go      TestSubackAnswersEachFilter
//	MQTT-3.10.1-1  UNSUBSCRIBE's flags                          mqtt/packet.go         TestMalformedPackets
//	MQTT-3.10.3-1  filters are text                             mqtt/filters.go        TestMalformedPackets
//	MQTT-3.10.3-2  and there is one                             mqtt/filters.go        TestMalformedPackets
//	MQTT-3.10.4-1  filters are compared exactly                 mqtt/subscribe.go      TestUnsubackAnswersEachFilter
//	MQTT-3.10.4-2  nothing new comes                            mqtt/subscribe.go      TestUnsubscribeCompletesWhatIsUnderWay
//	MQTT-3.10.4-3  what is under way is completed               mqtt/window.go         TestUnsubscribeCompletesWhatIsUnderWay
//	MQTT-3.10.4-4  UNSUBACK follows                             mqtt/subscribe.go      TestUnsubackAnswersEachFilter
//	MQTT-3.10.4-5  with the identifier                          mqtt/subscribe.go      TestUnsubackAnswersEachFilter
//	MQTT-3.10.4-6  several filters                              mqtt/subscribe.go      TestUnsubackAnswersEachFilter
//	MQTT-3.11.3-1  its codes are in order                       mqtt/filters.go        TestUnsubackAnswersEachFilter
//	MQTT-3.11.3-2  and exist                                    mqtt/subscribe.go      TestUnsubackAnswersEachFilter
//	MQTT-3.12.4-1  PINGRESP                                     mqtt/conn.go           TestKeepAlive
//	MQTT-3.14.0-1  no DISCONNECT before CONNACK                 mqtt/conn.go           TestMalformedPackets
//	MQTT-3.14.1-1  DISCONNECT's flags                           mqtt/packet.go         TestMalformedPackets
//	MQTT-3.14.2-1  its reason codes                             mqtt/conn.go           TestMalformedPackets
//	MQTT-3.14.2-2  no session expiry from the server            mqtt/conn.go           TestReasonStrings
//	MQTT-3.14.2-3  its reason string fits                       mqtt/conn.go           TestReasonStrings
//	MQTT-3.14.4-1  nothing follows it                           mqtt/conn.go           TestReasonStrings
//	MQTT-3.14.4-2  but the connection's end                     mqtt/conn.go           TestReasonStrings
//	MQTT-3.14.4-3  it discards the will                         mqtt/conn.go           TestWill
//	MQTT-3.15.1-1  AUTH's flags                                 mqtt/packet.go         TestMalformedPackets
//	MQTT-4.1.0-1   sessions live while connected                router/due.go          TestTakeoverClosesTheOldConnectionFirst
//	MQTT-4.1.0-2   and end when they expire                     router/due.go          TestExpiredSessionIsGone
//	MQTT-4.2.0-1   TCP                                          mqtt/server.go         TestConnackComesFirstAndOnce
//	MQTT-4.3.1-1   QoS 0 has no DUP                             mqtt/feed.go           TestDupIsNotPassedOn
//	MQTT-4.3.2-1   QoS 1: an unused identifier                  mqtt/window.go         TestDeliveryFlows
//	MQTT-4.3.2-2   no DUP at first                              mqtt/window.go         TestDupIsNotPassedOn
//	MQTT-4.3.2-3   unacknowledged until PUBACK                  mqtt/window.go         TestDeliveryFlows
//	MQTT-4.3.2-4   PUBACK for what is taken                     mqtt/replies.go        TestIdentifiersAreFreeAgain
//	MQTT-4.3.2-5   then the identifier is free                  mqtt/publish.go        TestIdentifiersAreFreeAgain
//	MQTT-4.3.3-1   QoS 2: an unused identifier                  mqtt/window.go         TestDeliveryFlows
//	MQTT-4.3.3-2   no DUP at first                              mqtt/window.go         TestDupIsNotPassedOn
//	MQTT-4.3.3-3   unacknowledged until PUBREC                  mqtt/window.go         TestDeliveryFlows
//	MQTT-4.3.3-4   PUBREL answers PUBREC                        mqtt/window.go         TestDeliveryFlows
//	MQTT-4.3.3-5   and stands until PUBCOMP                     mqtt/window.go         TestDeliveryFlows
//	MQTT-4.3.3-6   PUBLISH does not come after it               mqtt/session.go        TestQoS2SurvivesReconnectsAndRestarts
//	MQTT-4.3.3-8   PUBREC for what is taken                     mqtt/received.go       TestIdentifiersAreFreeAgain
//	MQTT-4.3.3-9   a refusal frees the identifier               mqtt/received.go       TestIdentifiersAreFreeAgain
//	MQTT-4.3.3-10  nothing is published twice                   mqtt/received.go       TestQoS2IsPublishedOnce
//	MQTT-4.3.3-11  PUBCOMP answers PUBREL                       mqtt/received.go       TestPubrelOfUnknownID
//	MQTT-4.3.3-12  and frees the identifier                     mqtt/received.go       TestIdentifiersAreFreeAgain
//	MQTT-4.3.3-13  whatever expires                             mqtt/publish.go        TestMessageExpiry
//	MQTT-4.4.0-1   sent again after a reconnect, and only then  mqtt/session.go        TestSessionKeepsMessagesInOrder
//	MQTT-4.4.0-2   not what was refused                         mqtt/window.go         TestRefusedDeliveryIsNotSentAgain
//	MQTT-4.5.0-1   stored for each session that matches         router/router.go       TestSessionKeepsMessagesInOrder
//	MQTT-4.6.0-2   acknowledgements are in order                mqtt/replies.go        TestAcknowledgementsFollowTheStoreInOrder
//	MQTT-4.6.0-3   of PUBREC too                                mqtt/replies.go        TestAcknowledgementsFollowTheStoreInOrder
//	MQTT-4.6.0-5   messages are in order                        router/ledger.go       TestSessionKeepsMessagesInOrder
//	MQTT-4.6.0-6   of every topic                               router/session.go      TestReceiveMaximumIsExact
//	MQTT-4.7.0-1   wildcards in filters only                    mqtt/publish.go        TestMalformedPackets
//	MQTT-4.7.1-1   # is a level, and the last                   router/address.go      TestR13BadFilters
//	MQTT-4.7.1-2   + is a level                                 router/address.go      TestR13BadFilters
//	MQTT-4.7.2-1   wildcards and names with $                   router/address.go      TestTopicMatching
//	MQTT-4.7.3-1   topics are not empty                         mqtt/publish.go        TestMalformedPackets
//	MQTT-4.7.3-2   and have no U+0000                           mqtt/publish.go        TestMalformedPackets
//	MQTT-4.7.3-4   nor are normalised                           router/address.go      TestTopicMatching
//	MQTT-4.8.2-1   $share has a group                           mqtt/subscribe.go      TestR13BadFilters
//	MQTT-4.8.2-2   and a filter                                 mqtt/subscribe.go      TestR13BadFilters
//	MQTT-4.8.2-3   each member has its own QoS                  mqtt/feed.go           TestShareGrants
//	MQTT-4.8.2-4   QoS 2 for one member only                    mqtt/subscribe.go      TestShareGrants
//	MQTT-4.8.2-5   and for no other                             mqtt/subscribe.go      TestShareGrants
//	MQTT-4.8.2-6   what is refused is discarded                 mqtt/window.go         TestShareRefusedIsDiscarded
//	MQTT-4.9.0-1   send quota                                   mqtt/connect.go        TestReceiveMaximumIsExact
//	MQTT-4.9.0-2   nothing is sent beyond it                    mqtt/window.go         TestReceiveMaximumIsExact
//	MQTT-4.9.0-3   all else goes on                             mqtt/window.go         TestUnacknowledgedReleaseAndManyRetainedKeepTheFlow
//	MQTT-4.12.0-1  enhanced authentication is refused           mqtt/connect.go        TestMalformedConnect
//	MQTT-4.12.0-6  no AUTH from the server                      mqtt/conn.go           TestConnackProperties
//	MQTT-4.12.0-7  none from a client                           mqtt/conn.go           TestMalformedPackets
//	MQTT-4.13.1-1  errors close the connection                  mqtt/conn.go           TestMalformedPackets
//	MQTT-4.13.2-1  whatever was said                            mqtt/conn.go           TestMalformedPackets
//	MQTT-6.0.0-1   WebSocket messages are binary                ws/stream.go           TestMQTTPacketsAcrossMessages
//	MQTT-6.0.0-2   and packets do not begin with them           ws/stream.go           TestMQTTPacketsAcrossMessages
//	MQTT-6.0.0-3   the subprotocol is asked for                 ws/server.go           TestMQTTPacketsAcrossMessages
//	MQTT-6.0.0-4   and answered                                 ws/server.go           TestMQTTPacketsAcrossMessages
//
// It imports router, router/door, router/outbox and the codec only, and is imported by package gateway and, for MQTT over WebSocket, handed
// connections by it.
package mqtt
