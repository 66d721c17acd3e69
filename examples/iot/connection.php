<?php
declare(strict_types=1);

/**
 * Connects, and tries again with growing pauses until it succeeds or $stop says to
 * give up; then it returns null. A little chance in the pause keeps a hundred workers
 * from coming back in the same moment.
 */
function connect_with_backoff(string $broker, callable $stop): ?Stomp
{
    for ($pause = 0.2; !$stop(); $pause = min($pause * 2, 10.0)) {
        try {
            $stomp = new Stomp($broker, (string) getenv('STOMP_LOGIN'), (string) getenv('STOMP_PASSCODE'));
            $stomp->setReadTimeout(10);   // how long a receipt may take
            return $stomp;
        } catch (StompException $e) {
            $wait = $pause * (0.5 + mt_rand() / mt_getrandmax());
            say(sprintf('cannot connect to %s: %s; next try in %.1f s', $broker, $e->getMessage(), $wait));
            pause($wait, $stop);
        }
    }
    return null;
}

/** Sleeps, but no longer than until $stop. */
function pause(float $seconds, callable $stop): void
{
    for ($end = microtime(true) + $seconds; microtime(true) < $end && !$stop();) {
        usleep(50_000);
    }
}

function say(string $text): void
{
    fwrite(STDOUT, date('H:i:s') . " $text\n");
}
