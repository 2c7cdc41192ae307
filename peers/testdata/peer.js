// A TLS client or server of Node.js:
// node peer.js client|server PORT VERSION CHECK CA CERTIFICATE KEY
'use strict';
const fs = require('fs');
const https = require('https');
const tls = require('tls');

const [role, port, version, check, ca, certificate, key] = process.argv.slice(2);
const options = {
  ca: fs.readFileSync(ca),
  minVersion: version,
  maxVersion: version,
  ALPNProtocols: check === 'ALPN' ? ['http/1.1'] : undefined,
};
const identity = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };

if (role === 'server') {
  const mutual = check === 'mTLS';
  https.createServer({ ...options, ...identity, requestCert: mutual, rejectUnauthorized: mutual }, (request, response) => {
    response.end('hello over TLS\n');
  }).listen(Number(port), '127.0.0.1');
} else {
  const connect = (session, next) => {
    let latest;
    const socket = tls.connect({
      ...options, ...(check === 'mTLS' ? identity : {}), host: '127.0.0.1', port: Number(port), servername: 'localhost', session,
    }, () => socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'));
    socket.on('session', (s) => { latest = s; });
    let answer = '';
    socket.on('data', (data) => { answer += data; });
    socket.on('error', (err) => { console.error(err); process.exitCode = 1; });
    socket.on('end', () => next(latest, answer));
  };
  if (check === 'resumed') {
    connect(undefined, (session) => connect(session, (_, answer) => process.stdout.write(answer)));
  } else {
    connect(undefined, (_, answer) => process.stdout.write(answer));
  }
}
