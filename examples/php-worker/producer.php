<?php
declare(strict_types=1);

// Sends jobs: php producer.php [COUNT]
// Each send returns when the gateway has the job on its disk. When that word does not
// come, the job is sent again with the same x-dedup-id, and is not stored twice.

require __DIR__ . '/connection.php';

$broker = getenv('STOMP_BROKER') ?: 'tcp://127.0.0.1:61613';
$count = (int) ($argv[1] ?? 10);
$stomp = null;

for ($n = 1; $n <= $count; $n++) {
    $job = ['id' => $n, 'to' => "customer$n@example.org"];
    if ($n % 5 === 0) {
        $job['fail'] = 2;      // the worker fails twice before it succeeds
    }
    if ($n % 10 === 0) {
        $job['fail'] = 1000;   // and this one never succeeds
    }
    send_job($stomp, $broker, json_encode($job, JSON_THROW_ON_ERROR));
}
send_job($stomp, $broker, 'not a job at all');
say("sent $count jobs and one that nobody can read");

/** Sends one job for sure: it returns when the gateway confirmed it. */
function send_job(?Stomp &$stomp, string $broker, string $body): void
{
    static $number = 0;
    $headers = [
        'persistent' => 'true',
        'content-type' => 'application/json',
        'x-dedup-id' => getmypid() . '-' . hrtime(true),
    ];
    while (true) {
        $stomp ??= connect_with_backoff($broker, fn () => false);
        try {
            if ($stomp->send('/queue/jobs', $body, $headers + ['receipt' => 'r' . ++$number])) {
                return;
            }
            $why = $stomp->error();
        } catch (StompException $e) {
            $why = $e->getMessage();   // such as: queue jobs is full
        }
        say("not confirmed: $why; trying again");
        $stomp = null;
        sleep(1);
    }
}
