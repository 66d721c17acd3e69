# A client program on the stomp gem (STOMP 1.1). It reads requests as JSON lines
# and answers each with one.

require 'base64'
require 'json'
require 'securerandom'
require 'stomp'
require 'timeout'

RECEIPT_SECONDS = 60

class Client
  def connect(r)
    headers = { 'accept-version' => '1.1', 'host' => r['host'] }.merge(r['headers'] || {})
    @frames = {}
    @waiting = []
    @connection = Stomp::Connection.new(
      hosts: [{ login: r['login'] || '', passcode: r['passcode'] || '', host: r['host'], port: r['port'] }],
      reliable: false, connect_headers: headers
    )
    raise "not connected: #{@connection.connection_frame}" unless @connection.connection_frame.command == 'CONNECTED'
    {}
  end

  def send(r)
    confirmed(r) { |h| @connection.publish(r['destination'], Base64.decode64(r['body'] || ''), h) }
  end

  def subscribe(r)
    confirmed(r) { |h| @connection.subscribe(r['destination'], { 'ack' => r['ack'] }.merge(h), r['id']) }
  end

  def unsubscribe(r)
    confirmed(r) { |h| @connection.unsubscribe(r['destination'], h, r['id']) }
  end

  def receive(r)
    frame = @waiting.shift || next_frame(r['timeout_ms'] / 1000.0)
    return { none: true } if frame.nil?
    raise "#{frame.command}: #{frame.headers['message']} #{frame.body}" unless frame.command == 'MESSAGE'

    @frames[frame.headers['message-id']] = frame
    { headers: frame.headers, body: Base64.strict_encode64(frame.body.to_s) }
  end

  def ack(r)
    settle(r) { |id, h| @connection.ack(id, h) }
  end

  def nack(r)
    settle(r) { |id, h| @connection.nack(id, h) }
  end

  def begin(r)
    confirmed(r, transaction: false) { |h| @connection.begin(r['transaction'], h) }
  end

  def commit(r)
    confirmed(r, transaction: false) { |h| @connection.commit(r['transaction'], h) }
  end

  def abort(r)
    confirmed(r, transaction: false) { |h| @connection.abort(r['transaction'], h) }
  end

  def disconnect(_request)
    @connection.disconnect
    {}
  end

  private

  def settle(r)
    frame = @frames.fetch(r['message'])
    confirmed(r) { |h| yield frame.headers['message-id'], h.merge('subscription' => frame.headers['subscription']) }
  end

  def confirmed(r, transaction: true)
    headers = (r['headers'] || {}).dup
    headers['transaction'] = r['transaction'] if transaction && r['transaction']
    headers['receipt'] = SecureRandom.hex(8) if r['receipt']
    yield headers
    await(headers['receipt']) if r['receipt']
    {}
  end

  # await keeps the messages that come before the receipt.
  def await(receipt)
    loop do
      frame = next_frame(RECEIPT_SECONDS)
      raise 'no receipt came' if frame.nil?

      case frame.command
      when 'MESSAGE' then @waiting << frame
      when 'RECEIPT'
        raise "receipt #{frame.headers['receipt-id']} instead of #{receipt}" if frame.headers['receipt-id'] != receipt

        return
      else
        raise "#{frame.command}: #{frame.headers['message']} #{frame.body}"
      end
    end
  end

  # next_frame waits without beginning to read, so that its end cuts no frame.
  def next_frame(seconds)
    deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
    loop do
      frame = @connection.poll
      return frame if frame
      raise 'the connection ended' if @connection.closed?
      return nil if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline

      sleep 0.002
    end
  end
end

$stdout.sync = true
client = Client.new
while (line = $stdin.gets)
  request = JSON.parse(line)
  begin
    reply = client.public_send(request['op'], request).merge(ok: true)
  rescue StandardError => e
    reply = { ok: false, error: "#{e.class}: #{e.message}" }
  end
  puts JSON.generate(reply)
end
