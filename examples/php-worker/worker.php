<?php
declare(strict_types=1);

// A resident worker: php worker.php
//
//   - It holds one job at a time (the gateway's default for client acks), for as long
//     as the job takes: nobody else gets it while this process lives.
//   - A job that fails is given back with NACK requeue:true, and comes again after the
//     delay of the queue's policy. After max_deliveries it is in DLQ.jobs.
//   - A job that can never succeed goes there at once: NACK without requeue.
//   - SIGTERM and SIGINT let it finish the job that it has.
//   - When the gateway goes away it connects again.
//
// A job can come twice: when this process or the gateway dies between the work and the
// ACK. Then $frame->headers['redelivered'] is "true". Make the work harmless to repeat.

require __DIR__ . '/connection.php';

const PING_SECONDS = 30;

$broker = getenv('STOMP_BROKER') ?: 'tcp://127.0.0.1:61613';
$stopping = false;
if (function_exists('pcntl_async_signals')) {   // else SIGTERM ends the process at once, and its job comes again
    pcntl_async_signals(true);
    foreach ([SIGTERM, SIGINT] as $signal) {
        pcntl_signal($signal, function () use (&$stopping) { $stopping = true; });
    }
}
$stop = function () use (&$stopping): bool { return $stopping; };

while (!$stop() && ($stomp = connect_with_backoff($broker, $stop)) !== null) {
    try {
        $stomp->subscribe('/queue/jobs', ['ack' => 'client-individual', 'receipt' => 'subscribed']);
        say('waiting for jobs');
        work($stomp, $stop);
        if ($stop()) {
            $stomp->unsubscribe('/queue/jobs', ['receipt' => 'unsubscribed']);
        }
    } catch (StompException $e) {
        say('connection lost: ' . $e->getMessage() . ' ' . trim((string) $e->getDetails()));
    }
    unset($stomp);   // disconnects
}
say('worker stopped');

/** Takes jobs until it is to stop; throws StompException when the connection is gone. */
function work(Stomp $stomp, callable $stop): void
{
    $heard = time();
    while (!$stop()) {
        $stomp->setReadTimeout(1);          // how soon a signal is noticed
        $frame = $stomp->readFrame();
        $stomp->setReadTimeout(10);         // how long a receipt may take
        if ($frame === false) {
            if ($stomp->error()) {
                throw new StompException($stomp->error());
            }
            if (time() - $heard >= PING_SECONDS) {
                ping($stomp);               // a peer that vanished says nothing by itself
                $heard = time();
            }
            continue;
        }
        $heard = time();
        settle($stomp, $frame);
    }
}

/** Does the job, and tells the gateway what became of it. */
function settle(Stomp $stomp, StompFrame $frame): void
{
    $attempt = (int) ($frame->headers['x-delivery-count'] ?? 1);
    try {
        $job = json_decode($frame->body, true, 16, JSON_THROW_ON_ERROR);
    } catch (JsonException $e) {
        $stomp->nack($frame, ['x-error' => 'not JSON: ' . $e->getMessage()]);
        say('a job that nobody can read: to the dead letters');
        return;
    }
    try {
        handle($job, $attempt);
    } catch (Throwable $e) {
        $stomp->nack($frame, ['requeue' => 'true', 'x-error' => $e->getMessage()]);
        say("job {$job['id']} failed at attempt $attempt: {$e->getMessage()}");
        return;
    }
    if (!$stomp->ack($frame, ['receipt' => 'ack-' . hrtime(true)])) {   // so that it cannot come again
        throw new StompException('ACK not confirmed: ' . $stomp->error());
    }
    say("job {$job['id']} done at attempt $attempt");
}

/** The work itself: this is what you replace. */
function handle(array $job, int $attempt): void
{
    usleep(10_000);
    if ($attempt <= ($job['fail'] ?? 0)) {
        throw new RuntimeException('the mail server is busy');
    }
}

/** Asks for a receipt, without doing anything. */
function ping(Stomp $stomp): void
{
    $id = 'ping-' . hrtime(true);
    if (!$stomp->begin($id, ['receipt' => $id]) || !$stomp->abort($id)) {
        throw new StompException('no answer: ' . $stomp->error());
    }
}
