<?php
// STOMP 1.2 in a few lines, for the two scripts beside it: no extension and no package is needed.

final class Broker
{
    /** @var resource */
    private $socket;
    private string $buffer = '';

    public function __construct(string $address, string $user, string $password)
    {
        $socket = stream_socket_client($address, $code, $text, 5);
        if ($socket === false) {
            throw new RuntimeException("cannot connect to $address: $text");
        }
        $this->socket = $socket;
        $login = $user === '' ? [] : ['login' => $user, 'passcode' => $password];
        $this->write('CONNECT', ['accept-version' => '1.2', 'host' => '/'] + $login, '', false);
        $this->expect('CONNECTED');
    }

    /** Sends and waits for the broker's receipt: when it returns, the message is stored where it is to be stored. */
    public function send(string $destination, string $body, array $headers = []): void
    {
        $this->request('SEND', ['destination' => $destination, 'content-length' => (string) strlen($body)] + $headers, $body);
    }

    /** Settles a message that read() returned; without a receipt, for the next message may come before it. */
    public function ack(array $headers): void
    {
        $this->write('ACK', ['id' => $headers['ack']], '');
    }

    public function request(string $command, array $headers, string $body = ''): void
    {
        $this->write($command, $headers + ['receipt' => bin2hex(random_bytes(8))], $body);
        $this->expect('RECEIPT');
    }

    /** @return array{string, array<string, string>, string} command, headers, body; waits for as long as it takes */
    public function read(): array
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
                $length = isset($headers['content-length']) ? (int) $headers['content-length'] : strpos($this->buffer, "\0", $head);
                $end = isset($headers['content-length']) ? $head + 2 + $length : $length;
                if ($end !== false && strlen($this->buffer) > $end) {
                    $body = substr($this->buffer, $head + 2, $end - $head - 2);
                    $this->buffer = substr($this->buffer, $end + 1);
                    return [$lines[0], $headers, $body];
                }
            }
            stream_set_timeout($this->socket, 86400);
            $more = fread($this->socket, 65536);
            if ($more === false || $more === '') {
                throw new RuntimeException('the broker closed the connection');
            }
            $this->buffer .= $more;
        }
    }

    private const ESCAPES = ['\\n' => "\n", '\\r' => "\r", '\\c' => ':', '\\\\' => '\\'];

    private function write(string $command, array $headers, string $body, bool $escape = true): void
    {
        $frame = "$command\n";
        foreach ($headers as $name => $value) { // CONNECT is not escaped (STOMP 1.2, Value Encoding)
            $frame .= $name . ':' . ($escape ? strtr((string) $value, array_flip(self::ESCAPES)) : $value) . "\n";
        }
        $frame .= "\n$body\0";
        if (fwrite($this->socket, $frame) !== strlen($frame)) {
            throw new RuntimeException('the broker does not read');
        }
    }

    private function expect(string $command): void
    {
        [$got, $headers] = $this->read();
        if ($got !== $command) {
            throw new RuntimeException("$got instead of $command: " . ($headers['message'] ?? ''));
        }
    }
}
