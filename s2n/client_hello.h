/* A strict reading of ClientHellos. s2n-tls 1.3.33 takes an extension that it
 * cannot read for one that is not there, a server's name up to its first NUL byte
 * for the name, and does not check what RFC 8446 section 9.2 wants servers to. The
 * other libraries refuse nearly all of that; providers/testdata/clienthello.txt has
 * the rest. */

#ifndef POLYTLS_S2N_CLIENT_HELLO_H
#define POLYTLS_S2N_CLIENT_HELLO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { ALERT_UNEXPECTED_MESSAGE = 10, ALERT_BAD_RECORD_MAC = 20, ALERT_HANDSHAKE_FAILURE = 40,
       ALERT_ILLEGAL_PARAMETER = 47, ALERT_DECODE_ERROR = 50, ALERT_DECRYPT_ERROR = 51, ALERT_PROTOCOL_VERSION = 70,
       ALERT_INTERNAL_ERROR = 80, ALERT_MISSING_EXTENSION = 109, ALERT_UNSUPPORTED_EXTENSION = 110,
       ALERT_UNRECOGNIZED_NAME = 112, ALERT_UNKNOWN_PSK_IDENTITY = 115, ALERT_CERTIFICATE_REQUIRED = 116,
       ALERT_NO_APPLICATION_PROTOCOL = 120 };

enum { EXTENSION_SERVER_NAME = 0, EXTENSION_SUPPORTED_GROUPS = 10, EXTENSION_POINT_FORMATS = 11,
       EXTENSION_SIGNATURE_ALGORITHMS = 13, EXTENSION_ALPN = 16, EXTENSION_PRE_SHARED_KEY = 41,
       EXTENSION_SUPPORTED_VERSIONS = 43, EXTENSION_PSK_MODES = 45, EXTENSION_KEY_SHARE = 51 };

/* The bytes that are left to read, which belong to somebody else. */
struct hello_reader {
  const uint8_t *at;
  size_t left;
};

/* Reads a number of one or two bytes. Returns 1, or 0 when there are fewer. */
static int hello_number(struct hello_reader *r, size_t size, size_t *number) {
  if (r->left < size) {
    return 0;
  }
  *number = size == 1 ? r->at[0] : (size_t)r->at[0] << 8 | r->at[1];
  r->at += size;
  r->left -= size;
  return 1;
}

/* Reads what stands behind its own length of one or two bytes. */
static int hello_vector(struct hello_reader *r, size_t size, struct hello_reader *content) {
  size_t len = 0;
  if (!hello_number(r, size, &len) || r->left < len) {
    return 0;
  }
  *content = (struct hello_reader){r->at, len};
  r->at += len;
  r->left -= len;
  return 1;
}

/* Whether an extension is one list, with items of one size and at least one. */
static int hello_is_list(struct hello_reader body, size_t size, size_t item) {
  struct hello_reader list;
  return hello_vector(&body, size, &list) && body.left == 0 && list.left > 0 && list.left % item == 0;
}

/* Whether ec_point_formats has the uncompressed one (RFC 8422 section 5.1.2). TLS
 * 1.3 does not use it. */
static int hello_has_uncompressed(struct hello_reader body) {
  struct hello_reader list;
  return hello_vector(&body, 1, &list) && memchr(list.at, 0, list.left) != NULL;
}

static int hello_is_alpn(struct hello_reader body) {
  struct hello_reader list, protocol;
  int ok = hello_vector(&body, 2, &list) && body.left == 0 && list.left > 0;
  while (ok && list.left > 0) {
    ok = hello_vector(&list, 1, &protocol) && protocol.left > 0;
  }
  return ok;
}

/* Returns the alert for a server_name extension, or -1. There is one kind of name,
 * and RFC 6066 section 3 allows one name of a kind. */
static int hello_server_name(struct hello_reader body) {
  struct hello_reader list, name;
  size_t kind = 0;
  if (!hello_vector(&body, 2, &list) || body.left > 0 || !hello_number(&list, 1, &kind) || !hello_vector(&list, 2, &name) ||
      list.left > 0 || name.left == 0) {
    return ALERT_DECODE_ERROR;
  }
  return kind == 0 && name.left <= 255 && memchr(name.at, 0, name.left) == NULL ? -1 : ALERT_UNRECOGNIZED_NAME;
}

/* Returns the alert for an extension, or -1. */
static int hello_extension(size_t type, struct hello_reader body) {
  int ok = 1;
  switch (type) {
    case EXTENSION_SERVER_NAME:
      return hello_server_name(body);
    case EXTENSION_SUPPORTED_GROUPS:
    case EXTENSION_SIGNATURE_ALGORITHMS:
      ok = hello_is_list(body, 2, 2);
      break;
    case EXTENSION_SUPPORTED_VERSIONS:
      ok = hello_is_list(body, 1, 2);
      break;
    case EXTENSION_PSK_MODES:
      ok = hello_is_list(body, 1, 1);
      break;
    case EXTENSION_ALPN:
      ok = hello_is_alpn(body);
      break;
    default:
      break;
  }
  return ok ? -1 : ALERT_DECODE_ERROR;
}

/* The extensions that a ClientHello has, a bit for each type. */
struct hello_seen {
  uint8_t bits[(1 << 16) / 8];
};

static int hello_has(const struct hello_seen *seen, size_t type) { return seen->bits[type / 8] >> type % 8 & 1; }

static int hello_offers_tls13(struct hello_reader versions) {
  struct hello_reader list;
  size_t version = 0;
  int found = 0;
  if (hello_vector(&versions, 1, &list)) {
    while (!found && hello_number(&list, 2, &version)) {
      found = version == 0x0304;
    }
  }
  return found;
}

/* Returns the alert that refuses a ClientHello (the message without its header),
 * or -1. knows_tls13 says that the server negotiates TLS 1.3 where it is offered. */
static int hello_alert(const uint8_t *message, size_t len, int knows_tls13) {
  struct hello_reader hello = {message, len}, session, suites, compression, extensions = {NULL, 0};
  size_t version = 0;
  if (!hello_number(&hello, 2, &version) || hello.left < 32) {
    return ALERT_DECODE_ERROR;
  }
  hello.at += 32;
  hello.left -= 32;
  if (!hello_vector(&hello, 1, &session) || !hello_vector(&hello, 2, &suites) || suites.left % 2 != 0 ||
      !hello_vector(&hello, 1, &compression) ||
      (hello.left > 0 && (!hello_vector(&hello, 2, &extensions) || hello.left > 0))) {
    return ALERT_DECODE_ERROR;
  }
  struct hello_seen seen;
  memset(&seen, 0, sizeof(seen));
  int tls13 = 0, uncompressed = 1;
  while (extensions.left > 0) {
    size_t type = 0;
    struct hello_reader body;
    if (!hello_number(&extensions, 2, &type) || !hello_vector(&extensions, 2, &body)) {
      return ALERT_DECODE_ERROR;
    }
    if (hello_has(&seen, type)) {
      return ALERT_ILLEGAL_PARAMETER;
    }
    seen.bits[type / 8] |= (uint8_t)(1 << type % 8);
    int alert = hello_extension(type, body);
    if (alert >= 0) {
      return alert;
    }
    if (type == EXTENSION_POINT_FORMATS) {
      uncompressed = hello_has_uncompressed(body);
    }
    tls13 = tls13 || (knows_tls13 && type == EXTENSION_SUPPORTED_VERSIONS && hello_offers_tls13(body));
  }
  /* Beside supported_versions it says nothing, but s2n fails over one that is too
   * low in the middle of its flight. */
  if (version < (hello_has(&seen, EXTENSION_SUPPORTED_VERSIONS) ? 0x0301 : 0x0303)) {
    return ALERT_PROTOCOL_VERSION;
  }
  if (compression.left == 0 || memchr(compression.at, 0, compression.left) == NULL ||
      (tls13 ? compression.left != 1 : !uncompressed)) {
    return ALERT_ILLEGAL_PARAMETER;
  }
  int groups = hello_has(&seen, EXTENSION_SUPPORTED_GROUPS);
  int certificate = groups && hello_has(&seen, EXTENSION_SIGNATURE_ALGORITHMS);
  if (tls13 && (groups != hello_has(&seen, EXTENSION_KEY_SHARE) || (!certificate && !hello_has(&seen, EXTENSION_PRE_SHARED_KEY)))) {
    return ALERT_MISSING_EXTENSION;
  }
  return -1;
}

#endif
