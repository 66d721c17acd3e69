<?php
// A client program on php-stomp (STOMP 1.0, as that extension speaks it by
// default). It reads requests as JSON lines and answers each with one.

$stomp = null;
$frames = [];   // by message-id

function answer(array $reply): void
{
    // Header values need not be UTF-8; the tests' are.
    fwrite(STDOUT, json_encode($reply, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES) . "\n");
}

function wait_until(float $end): void
{
    global $stomp;
    $left = max(0.001, $end - microtime(true));
    $stomp->setReadTimeout((int) $left, (int) (($left - (int) $left) * 1e6));
}

function receive(array $r): array
{
    global $stomp, $frames;
    $end = microtime(true) + $r['timeout_ms'] / 1000;
    do {
        wait_until($end);
        $frame = $stomp->readFrame();
        if ($frame !== false) {
            $frames[$frame->headers['message-id']] = $frame;
            return ['ok' => true, 'headers' => $frame->headers, 'body' => base64_encode((string) $frame->body)];
        }
    } while (microtime(true) < $end);
    return ['ok' => true, 'none' => true];
}

function perform(array $r): array
{
    global $stomp, $frames;
    $headers = $r['headers'] ?? [];
    if (!empty($r['receipt'])) {
        $headers['receipt'] = 'r-' . uniqid();
    }
    if (!empty($r['transaction'])) {
        $headers['transaction'] = $r['transaction'];
    }
    if ($stomp !== null) {
        $stomp->setReadTimeout(30);   // of the receipt
    }
    switch ($r['op']) {
        case 'connect':
            $stomp = new Stomp("tcp://{$r['host']}:{$r['port']}", $r['login'] ?? '', $r['passcode'] ?? '', $headers);
            return ['ok' => true, 'headers' => ['session' => (string) $stomp->getSessionId()]];
        case 'send':
            $ok = $stomp->send($r['destination'], base64_decode($r['body'] ?? ''), $headers);
            break;
        case 'subscribe':
            $headers += ['ack' => $r['ack'], 'id' => $r['id']];
            $ok = $stomp->subscribe($r['destination'], $headers);
            break;
        case 'unsubscribe':
            $ok = $stomp->unsubscribe($r['destination'], $headers + ['id' => $r['id']]);
            break;
        case 'receive':
            return receive($r);
        case 'ack':
            $ok = $stomp->ack($frames[$r['message']], $headers);
            break;
        case 'nack':
            $ok = $stomp->nack($frames[$r['message']], $headers);
            break;
        case 'begin':
            $ok = $stomp->begin($r['transaction'], $headers);
            break;
        case 'commit':
            $ok = $stomp->commit($r['transaction'], $headers);
            break;
        case 'abort':
            $ok = $stomp->abort($r['transaction'], $headers);
            break;
        case 'disconnect':
            $stomp = null;
            gc_collect_cycles();
            return ['ok' => true];
        default:
            return ['ok' => false, 'error' => "unknown request {$r['op']}"];
    }
    return $ok ? ['ok' => true] : ['ok' => false, 'error' => (string) $stomp->error()];
}

while (($line = fgets(STDIN)) !== false) {
    try {
        answer(perform(json_decode($line, true, 16, JSON_THROW_ON_ERROR)));
    } catch (Throwable $e) {
        answer(['ok' => false, 'error' => get_class($e) . ': ' . $e->getMessage()
            . ($e instanceof StompException ? ' ' . $e->getDetails() : '')]);
    }
}
