<?php
// Programs as they were written for ActiveMQ, with its usual login. Nothing in them
// knows of another broker. Usage: php activemq.php PROGRAM tcp://HOST:PORT
// Each prints what it saw as JSON lines.

const USER = 'system';
const PASSWORD = 'manager';

function report(array $what): void
{
    echo json_encode($what, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES), "\n";
}

function connect(string $broker, array $headers = []): Stomp
{
    $stomp = new Stomp($broker, USER, PASSWORD, $headers);
    $stomp->setReadTimeout(20);
    return $stomp;
}

function next_frame(Stomp $stomp): StompFrame
{
    $frame = $stomp->readFrame();
    if ($frame === false) {
        throw new RuntimeException('no frame came: ' . $stomp->error());
    }
    return $frame;
}

/** The example of the manual: send, subscribe, read, acknowledge. */
function classic(string $broker): void
{
    $queue = '/queue/foo';
    $stomp = connect($broker);
    $stomp->send($queue, 'bar');
    $stomp->subscribe($queue);
    $frame = next_frame($stomp);
    report(['body' => $frame->body, 'destination' => $frame->headers['destination']]);
    $stomp->ack($frame);
    $stomp->begin('t1');
    $stomp->send($queue, 'one', ['transaction' => 't1', 'persistent' => 'true', 'priority' => '7', 'JMSXGroupID' => 'g', 'x-my' => 'héllo']);
    $stomp->commit('t1');
    $frame = next_frame($stomp);
    report(['body' => $frame->body, 'priority' => $frame->headers['priority'], 'x-my' => $frame->headers['x-my'], 'group' => $frame->headers['JMSXGroupID']]);
    $stomp->ack($frame);
    $stomp->unsubscribe($queue);
    unset($stomp);
}

/** Two groups of consumers of one virtual topic: each group gets every message. */
function virtual_topics(string $broker): void
{
    $groups = [];
    foreach (['Billing', 'Shipping'] as $group) {
        $groups[$group] = connect($broker);
        $groups[$group]->subscribe("/queue/Consumer.$group.VirtualTopic.Orders", ['receipt' => "s-$group"]);
    }
    $producer = connect($broker);
    foreach ([1, 2, 3] as $n) {
        $producer->send('/topic/VirtualTopic.Orders', "order $n", ['persistent' => 'true', 'receipt' => "r$n"]);
    }
    foreach ($groups as $group => $stomp) {
        foreach ([1, 2, 3] as $n) {
            $frame = next_frame($stomp);
            report(['group' => $group, 'body' => $frame->body, 'destination' => $frame->headers['destination']]);
            $stomp->ack($frame, ['receipt' => "a$group$n"]);
        }
    }
}

/** A question with a temporary queue for the answer. */
function reply_to(string $broker): void
{
    $server = connect($broker);
    $server->subscribe('/queue/Questions', ['receipt' => 's1']);
    $client = connect($broker);
    $client->subscribe('/temp-queue/answers', ['receipt' => 's2']);
    $client->send('/queue/Questions', 'what is 6 x 7?', ['reply-to' => '/temp-queue/answers', 'correlation-id' => 'c1', 'receipt' => 'r1']);
    $question = next_frame($server);
    report(['question' => $question->body, 'reply-to' => $question->headers['reply-to']]);
    $server->send($question->headers['reply-to'], '42', ['correlation-id' => $question->headers['correlation-id'], 'receipt' => 'r2']);
    $server->ack($question);
    $answer = next_frame($client);
    report(['answer' => $answer->body, 'correlation-id' => $answer->headers['correlation-id'], 'destination' => $answer->headers['destination']]);
    $client->ack($answer);
}

/** A durable subscriber with ActiveMQ's headers; it is away while a message is sent. */
function durable(string $broker): void
{
    $subscribe = function () use ($broker): Stomp {
        $stomp = connect($broker, ['client-id' => 'worker-1']);
        $stomp->subscribe('/topic/Prices.EUR', ['activemq.subscriptionName' => 'worker-1', 'activemq.prefetchSize' => '1', 'ack' => 'client', 'receipt' => 's']);
        return $stomp;
    };
    $stomp = $subscribe();
    report(['session' => $stomp->getSessionId()]);
    unset($stomp);
    $producer = connect($broker);
    $producer->send('/topic/Prices.EUR', '1.17', ['persistent' => 'true', 'receipt' => 'r1']);
    $stomp = $subscribe();
    $frame = next_frame($stomp);
    report(['body' => $frame->body]);
    $stomp->ack($frame, ['receipt' => 'a1']);
}

/** Errors come as exceptions or false, with a text. */
function errors(string $broker): void
{
    $stomp = connect($broker);
    report(['ok' => $stomp->send('/queue/a.*', 'x', ['receipt' => 'r1']), 'error' => $stomp->error()]);
    report(['ok' => $stomp->send('/queue/after', 'x', ['receipt' => 'r2'])]);
}

/** A message for later, and one that is sent three times. */
function scheduled(string $broker): void
{
    $stomp = connect($broker);
    $stomp->subscribe('/queue/Reminders', ['ack' => 'auto']);
    $begin = microtime(true);
    $stomp->send('/queue/Reminders', 'later', ['persistent' => 'true', 'AMQ_SCHEDULED_DELAY' => '1000', 'receipt' => 'r1']);
    $stomp->send('/queue/Reminders', 'often', ['AMQ_SCHEDULED_DELAY' => '2000', 'AMQ_SCHEDULED_PERIOD' => '200', 'AMQ_SCHEDULED_REPEAT' => '2', 'receipt' => 'r2']);
    for ($n = 0; $n < 4; $n++) {
        $frame = next_frame($stomp);
        report(['body' => $frame->body, 'job' => isset($frame->headers['scheduledJobId']), 'early' => microtime(true) - $begin < 0.95]);
    }
}

/** Looks into a queue without taking from it, and ends where the broker says so. */
function browse(string $broker): void
{
    $producer = connect($broker);
    foreach ([1, 2, 3] as $n) {
        $producer->send('/queue/Stock', "item $n", ['persistent' => 'true', 'receipt' => "r$n"]);
    }
    foreach ([1, 2] as $time) {
        $stomp = connect($broker);
        $stomp->subscribe('/queue/Stock', ['browser' => 'true', 'ack' => 'auto']);
        for ($frame = next_frame($stomp); ($frame->headers['browser'] ?? '') !== 'end'; $frame = next_frame($stomp)) {
            report(['time' => (string) $time, 'body' => $frame->body]);
        }
        unset($stomp);
    }
}

/** Two consumers; all messages of a group go to one of them. An exclusive one gets everything of its queue. */
function groups(string $broker): void
{
    $consumers = [connect($broker), connect($broker)];
    foreach ($consumers as $n => $stomp) {
        $headers = ['activemq.prefetchSize' => '1', 'receipt' => "s$n"];
        $stomp->subscribe('/queue/Accounts', $headers);
        $stomp->subscribe('/queue/Single', $headers + ['activemq.exclusive' => 'true']);
    }
    $producer = connect($broker);
    foreach (['alice', 'bob', 'alice', 'bob'] as $n => $account) {
        $producer->send('/queue/Accounts', "$account $n", ['JMSXGroupID' => $account, 'persistent' => 'true', 'receipt' => "r$n"]);
    }
    foreach ($consumers as $n => $stomp) {
        for ($i = 0; $i < 2; $i++) {
            $frame = next_frame($stomp);
            report(['consumer' => (string) $n, 'group' => $frame->headers['JMSXGroupID'], 'body' => $frame->body]);
            $stomp->ack($frame, ['receipt' => "a$n$i"]);
        }
    }
    foreach ([0, 1] as $n) {
        $producer->send('/queue/Single', "single $n", ['persistent' => 'true', 'receipt' => "x$n"]);
    }
    for ($i = 0; $i < 2; $i++) {
        $frame = next_frame($consumers[0]);
        report(['body' => $frame->body]);
        $consumers[0]->ack($frame, ['receipt' => "y$i"]);
    }
}

$programs = ['classic', 'virtual_topics', 'reply_to', 'durable', 'scheduled', 'browse', 'groups', 'errors'];
if (!in_array($argv[1] ?? '', $programs, true)) {
    fwrite(STDERR, 'usage: php activemq.php ' . implode('|', $programs) . " tcp://HOST:PORT\n");
    exit(2);
}
try {
    $argv[1]($argv[2]);
} catch (Throwable $e) {
    fwrite(STDERR, get_class($e) . ': ' . $e->getMessage() . ' ' . ($e instanceof StompException ? $e->getDetails() : '') . "\n");
    exit(1);
}
