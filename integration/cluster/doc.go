// Package cluster tests several gateways behind HAProxy, as processes: under load
// of all protocols nodes are killed, stopped, cut off and drained, and ledgers tell
// what was confirmed and what came.
//
// Every run prints its ledger. Those of some seconds are run with all other tests, and in CI TestKills too; the rest with
// MQGATE_TEST_CLUSTER=1, on a machine that has nothing else to do. MQGATE_TEST_CHAOS sets how long nodes are killed
// (default 5m; "make chaos" takes 30m), MQGATE_TEST_PARTITION and MQGATE_TEST_PAUSE how long one is cut off (6s) and stopped
// (15s), MQGATE_TEST_NODES how many nodes there are (3), MQGATE_TEST_SESSIONS how many MQTT sessions reconnect at once (500),
// MQGATE_TEST_INTERESTS how many topics are subscribed to (2000), MQGATE_TEST_SEED repeats a choice of nodes, MQGATE_TEST_KIND has TestPartition and TestDamagedDirectory do only what it names, and
// MQGATE_TEST_LOGS is a directory for all that the nodes logged.
package cluster
