<?php
// STOMP 1.2 in a few lines, for the scripts beside it: no extension and no package is needed.

const ROOM = '/^[a-z0-9-]{1,24}$/';

final class Broker
{
    private const ESCAPES = ['\\n' => "\n", '\\r' => "\r", '\\c' => ':', '\\\\' => '\\'];

    /** @var resource */
    private $socket;
    private string $buffer = '';
    /** @var list<array{string, array<string, string>, string}> frames that came while a receipt was waited for */
    private array $early = [];

    /** STOMP=tcp://127.0.0.1:61613, STOMP_USER and STOMP_PASSWORD say where and as whom. */
    public static function fromEnvironment(string $clientID = ''): self
    {
        return new self(getenv('STOMP') ?: 'tcp://127.0.0.1:61613', getenv('STOMP_USER') ?: '', getenv('STOMP_PASSWORD') ?: '', $clientID);
    }

    public function __construct(string $address, string $user, string $password, string $clientID)
    {
        $socket = @stream_socket_client($address, $code, $text, 5);
        if ($socket === false) {
            throw new RuntimeException("cannot connect to $address: $text");
        }
        $this->socket = $socket;
        stream_set_timeout($socket, 86400);
        $login = array_filter(['login' => $user, 'passcode' => $password, 'client-id' => $clientID], fn ($v) => $v !== '');
        $this->write('CONNECT', ['accept-version' => '1.2', 'host' => '/'] + $login, '', false); // not escaped (STOMP 1.2, Value Encoding)
        [$command, $headers] = $this->frame();
        if ($command !== 'CONNECTED') {
            throw new RuntimeException("$command: " . ($headers['message'] ?? ''));
        }
    }

    /** Sends and waits for the receipt: when it returns, the message is stored where it is to be stored. */
    public function send(string $destination, string $body, array $headers = []): void
    {
        $this->request('SEND', ['destination' => $destination, 'content-length' => (string) strlen($body)] + $headers, $body);
    }

    public function subscribe(string $id, string $destination, array $headers = []): void
    {
        $this->request('SUBSCRIBE', ['id' => $id, 'destination' => $destination, 'ack' => 'client-individual'] + $headers);
    }

    public function ack(array $message): void
    {
        $this->write('ACK', ['id' => $message['ack']], '');
    }

    /** Gives a message back: it comes again after a delay, and after too many times becomes a dead letter with this reason. */
    public function later(array $message, int $delayMs, string $reason): void
    {
        $this->write('NACK', ['id' => $message['ack'], 'requeue' => 'true', 'delay' => (string) $delayMs, 'x-error' => $reason], '');
    }

    /** @return array{array<string, string>, string} headers and body of the next message; waits for as long as it takes */
    public function message(): array
    {
        while (true) {
            [$command, $headers, $body] = array_shift($this->early) ?? $this->frame();
            if ($command === 'MESSAGE') {
                return [$headers, $body];
            }
            if ($command === 'ERROR') {
                throw new RuntimeException($headers['message'] ?? 'error');
            }
        }
    }

    private function request(string $command, array $headers, string $body = ''): void
    {
        $receipt = bin2hex(random_bytes(8));
        $this->write($command, $headers + ['receipt' => $receipt], $body);
        while (true) {
            $frame = $this->frame();
            if ($frame[0] === 'RECEIPT' && ($frame[1]['receipt-id'] ?? '') === $receipt) {
                return;
            }
            if ($frame[0] === 'ERROR') {
                throw new RuntimeException("$command: " . ($frame[1]['message'] ?? 'error'));
            }
            $this->early[] = $frame;
        }
    }

    /** @return array{string, array<string, string>, string} command, headers, body */
    private function frame(): array
    {
        while (true) {
            $this->buffer = ltrim($this->buffer, "\n");
            $head = strpos($this->buffer, "\n\n");
            if ($head !== false) {
                $lines = explode("\n", substr($this->buffer, 0, $head));
                $headers = [];
                foreach (array_slice($lines, 1) as $line) {
                    [$name, $value] = explode(':', $line, 2);
                    $headers += [strtr($name, self::ESCAPES) => strtr($value, self::ESCAPES)]; // the first of a name counts
                }
                $end = isset($headers['content-length']) ? $head + 2 + (int) $headers['content-length'] : strpos($this->buffer, "\0", $head);
                if ($end !== false && strlen($this->buffer) > $end) {
                    $body = substr($this->buffer, $head + 2, $end - $head - 2);
                    $this->buffer = substr($this->buffer, $end + 1);
                    return [$lines[0], $headers, $body];
                }
            }
            $more = fread($this->socket, 65536);
            if ($more === false || $more === '') {
                throw new RuntimeException('the broker closed the connection');
            }
            $this->buffer .= $more;
        }
    }

    private function write(string $command, array $headers, string $body, bool $escape = true): void
    {
        $frame = "$command\n";
        foreach ($headers as $name => $value) {
            $frame .= $name . ':' . ($escape ? strtr((string) $value, array_flip(self::ESCAPES)) : $value) . "\n";
        }
        $frame .= "\n$body\0";
        if (fwrite($this->socket, $frame) !== strlen($frame)) {
            throw new RuntimeException('the broker does not read');
        }
    }
}
