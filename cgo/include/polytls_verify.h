/*
 * Certificate verification, the same for every native library.
 *
 * polytls_verify takes a prepared X509_STORE_CTX and decides. Everything that
 * the libraries do differently is settled here: purposes, partial chains, the
 * strength of keys and signatures, names, and one code for one cause. Every
 * path that is not a proven success is a refusal.
 *
 * It uses libcrypto's X509 API only and compiles against OpenSSL 3.0 and
 * later, BoringSSL, and the renamed OpenSSL inside s2n's archive: whoever needs
 * renamed symbols includes the header with the new names before this one.
 * Nothing here is shared between connections.
 */
#ifndef POLYTLS_VERIFY_H
#define POLYTLS_VERIFY_H

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "polytls_native.h"
#include "polytls_revocation.h"

/* The shortest keys that count: RSA in bits, curves in bits of their order.
 * Both stand for the 112 bits of security level 2, which BoringSSL does not
 * know as a setting. */
#define POLYTLS_MIN_RSA_BITS 2048
#define POLYTLS_MIN_EC_BITS 224
#define POLYTLS_MIN_SECURITY_BITS 112

/* ---- accepted names ---- */

enum polytls_name_kind { POLYTLS_NAME_DNS = 1, POLYTLS_NAME_IP = 2 };

struct polytls_name {
  enum polytls_name_kind kind;
  /* DNS: len bytes of text and a NUL; IP: 4 or 16 bytes. malloc memory that
   * belongs to the list. */
  uint8_t *bytes;
  size_t len;
};

/* The names of which the peer's leaf must hold one. All zero is the empty
 * list, which matches nothing. The connection owns it and frees it with
 * polytls_names_free. */
struct polytls_names {
  struct polytls_name *list;
  size_t count;
  size_t capacity;
  /* 1: names are not checked. */
  int skip;
};

/* Appends a copy of bytes[0..len). Returns 1, or 0 when memory ran out, the
 * list being unchanged then. */
static inline int polytls_names_append(struct polytls_names *names, enum polytls_name_kind kind,
                                       const uint8_t *bytes, size_t len) {
  if (names->count == names->capacity) {
    size_t capacity = names->capacity == 0 ? 4 : names->capacity * 2;
    struct polytls_name *list = realloc(names->list, capacity * sizeof(*list));
    if (list == NULL) {
      return 0;
    }
    names->list = list;
    names->capacity = capacity;
  }
  uint8_t *copy = malloc(len + 1);
  if (copy == NULL) {
    return 0;
  }
  memcpy(copy, bytes, len);
  copy[len] = 0;
  names->list[names->count].kind = kind;
  names->list[names->count].bytes = copy;
  names->list[names->count].len = len;
  names->count++;
  return 1;
}

/* Adds a DNS name; bytes stays the caller's. A trailing dot is dropped.
 * Returns 1; 0 when memory ran out; -1 when this is no DNS name that may be
 * verified. Refused are the empty name, a NUL inside, a leading dot (which
 * X509_check_host reads as "any subdomain"), and what looks like an address:
 * addresses match IP SANs only. */
static inline int polytls_names_add_dns(struct polytls_names *names, const uint8_t *bytes, size_t len) {
  if (len > 0 && bytes[len - 1] == '.') {
    len--;
  }
  if (len == 0 || len > 255 || bytes[0] == '.') {
    return -1;
  }
  int numeric = 1;
  for (size_t i = 0; i < len; i++) {
    if (bytes[i] <= ' ' || bytes[i] >= 0x7f || bytes[i] == ':' || bytes[i] == '*') {
      return -1;
    }
    if (bytes[i] != '.' && (bytes[i] < '0' || bytes[i] > '9')) {
      numeric = 0;
    }
  }
  if (numeric) {
    return -1;
  }
  return polytls_names_append(names, POLYTLS_NAME_DNS, bytes, len);
}

/* Adds an address of 4 or 16 bytes; bytes stays the caller's. Returns 1; 0 when
 * memory ran out; -1 for any other length. */
static inline int polytls_names_add_ip(struct polytls_names *names, const uint8_t *bytes, size_t len) {
  if (len != 4 && len != 16) {
    return -1;
  }
  return polytls_names_append(names, POLYTLS_NAME_IP, bytes, len);
}

/* Frees the content of the list and makes it the empty one. */
static inline void polytls_names_free(struct polytls_names *names) {
  for (size_t i = 0; i < names->count; i++) {
    free(names->list[i].bytes);
  }
  free(names->list);
  memset(names, 0, sizeof(*names));
}

/* Reports whether the certificate holds one of the names: 1 or 0. Neither
 * argument changes hands. */
static inline int polytls_names_match(X509 *leaf, const struct polytls_names *names) {
  for (size_t i = 0; i < names->count; i++) {
    const struct polytls_name *name = &names->list[i];
    int match = 0;
    if (name->kind == POLYTLS_NAME_IP) {
      match = X509_check_ip(leaf, name->bytes, name->len, 0);
    } else if (name->kind == POLYTLS_NAME_DNS) {
      match = X509_check_host(leaf, (const char *)name->bytes, name->len,
                              X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL);
    }
    if (match == 1) {
      return 1;
    }
  }
  return 0;
}

/* ---- chains ---- */

/* Writes the chain as (uint32 big-endian length, DER)…, the form that queries
 * answer with, to buf when it fits into len bytes. Returns the full size either
 * way; 0 for no chain, SIZE_MAX when memory ran out. The chain stays the
 * caller's. */
static inline size_t polytls_chain_encode(STACK_OF(X509) *chain, uint8_t *buf, size_t len) {
  if (chain == NULL) {
    return 0;
  }
  size_t total = 0;
  int count = (int)sk_X509_num(chain);
  for (int i = 0; i < count; i++) {
    int n = i2d_X509(sk_X509_value(chain, i), NULL);
    if (n <= 0) {
      return SIZE_MAX;
    }
    total += 4 + (size_t)n;
  }
  if (buf == NULL || total > len) {
    return total;
  }
  uint8_t *p = buf;
  for (int i = 0; i < count; i++) {
    X509 *certificate = sk_X509_value(chain, i);
    uint8_t *der = p + 4;
    int n = i2d_X509(certificate, &der);
    if (n <= 0 || (size_t)n > len - (size_t)(p - buf) - 4) {
      return SIZE_MAX;
    }
    p[0] = (uint8_t)((uint32_t)n >> 24);
    p[1] = (uint8_t)((uint32_t)n >> 16);
    p[2] = (uint8_t)((uint32_t)n >> 8);
    p[3] = (uint8_t)n;
    p = der;
  }
  return total;
}

/* Pushes a reference of its own. Returns 1, or 0 when memory ran out. */
static inline int polytls_chain_push(STACK_OF(X509) *chain, X509 *certificate) {
  if (!sk_X509_push(chain, certificate)) {
    return 0;
  }
  X509_up_ref(certificate);
  return 1;
}

/* Returns the chain that the peer sent: the leaf, then the untrusted
 * certificates in their order. The caller frees it with sk_X509_pop_free and
 * X509_free; NULL when memory ran out or there is no leaf. */
static inline STACK_OF(X509) *polytls_chain_sent(X509_STORE_CTX *ctx) {
  X509 *leaf = X509_STORE_CTX_get0_cert(ctx);
  STACK_OF(X509) *untrusted = X509_STORE_CTX_get0_untrusted(ctx);
  if (leaf == NULL) {
    return NULL;
  }
  STACK_OF(X509) *chain = sk_X509_new_null();
  int ok = chain != NULL && polytls_chain_push(chain, leaf);
  int count = untrusted == NULL ? 0 : (int)sk_X509_num(untrusted);
  for (int i = 0; ok && i < count; i++) {
    X509 *certificate = sk_X509_value(untrusted, i);
    /* Libraries hand over the peer's list with the leaf still at its head. */
    if (i == 0 && (certificate == leaf || X509_cmp(certificate, leaf) == 0)) {
      continue;
    }
    ok = polytls_chain_push(chain, certificate);
  }
  if (!ok) {
    sk_X509_pop_free(chain, X509_free);
    return NULL;
  }
  return chain;
}

/* ---- the outcome ---- */

/* What a verification came to. All zero before it; the connection owns it and
 * frees it with polytls_outcome_free. */
struct polytls_outcome {
  enum polytls_verify_code code;
  /* The certificate that caused it, 0 the leaf. */
  int depth;
  /* X509_V_ERR_… as the library (or the nearest one for a check of ours). */
  long library_code;
  /* Why, in words; constant, or a text of the library's that is. */
  const char *text;
  /* References of its own: `sent` also after a refusal, `verified` (leaf to
   * anchor) only after a success. */
  STACK_OF(X509) *sent;
  STACK_OF(X509) *verified;
};

/* Frees the content and makes it all zero. */
static inline void polytls_outcome_free(struct polytls_outcome *outcome) {
  sk_X509_pop_free(outcome->sent, X509_free);
  sk_X509_pop_free(outcome->verified, X509_free);
  memset(outcome, 0, sizeof(*outcome));
}

/* The alert that tells the peer about a refusal (RFC 8446 section 6.2). */
static inline int polytls_verify_alert(enum polytls_verify_code code) {
  switch (code) {
    case POLYTLS_VERIFY_EXPIRED:
      return 45; /* certificate_expired */
    case POLYTLS_VERIFY_UNTRUSTED:
    case POLYTLS_VERIFY_SELF_SIGNED:
    case POLYTLS_VERIFY_INVALID_CA:
      return 48; /* unknown_ca */
    case POLYTLS_VERIFY_KEY_USAGE:
      return 43; /* unsupported_certificate */
    case POLYTLS_VERIFY_REVOKED:
      return 44; /* certificate_revoked */
    case POLYTLS_VERIFY_OTHER:
    case POLYTLS_VERIFY_REVOCATION_UNKNOWN:
      return 46; /* certificate_unknown */
    case POLYTLS_VERIFY_OK:
    case POLYTLS_VERIFY_HOSTNAME:
    case POLYTLS_VERIFY_NOT_YET_VALID:
    case POLYTLS_VERIFY_WEAK_KEY:
    case POLYTLS_VERIFY_WEAK_SIGNATURE:
    case POLYTLS_VERIFY_BAD_SIGNATURE:
    case POLYTLS_VERIFY_NAME_CONSTRAINT:
    case POLYTLS_VERIFY_MALFORMED:
      break;
  }
  return 42; /* bad_certificate */
}

/* One cause for each of the library's. Numbers above 65 mean different things
 * in OpenSSL and BoringSSL, so only names are used, and what one of them lacks
 * is left out. */
static inline enum polytls_verify_code polytls_verify_code_of(long error) {
  switch (error) {
    case X509_V_OK:
      return POLYTLS_VERIFY_OK;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
    case X509_V_ERR_EMAIL_MISMATCH:
      return POLYTLS_VERIFY_HOSTNAME;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
      return POLYTLS_VERIFY_SELF_SIGNED;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_UNTRUSTED:
    case X509_V_ERR_CERT_CHAIN_TOO_LONG:
    case X509_V_ERR_SUBJECT_ISSUER_MISMATCH:
    case X509_V_ERR_AKID_SKID_MISMATCH:
    case X509_V_ERR_AKID_ISSUER_SERIAL_MISMATCH:
      return POLYTLS_VERIFY_UNTRUSTED;
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return POLYTLS_VERIFY_EXPIRED;
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return POLYTLS_VERIFY_NOT_YET_VALID;
    case X509_V_ERR_INVALID_PURPOSE:
    case X509_V_ERR_KEYUSAGE_NO_DIGITAL_SIGNATURE:
      return POLYTLS_VERIFY_KEY_USAGE;
    case X509_V_ERR_INVALID_CA:
    case X509_V_ERR_INVALID_NON_CA:
    case X509_V_ERR_PATH_LENGTH_EXCEEDED:
    case X509_V_ERR_KEYUSAGE_NO_CERTSIGN:
#ifdef X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA
    case X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA:
    case X509_V_ERR_PATHLEN_WITHOUT_KU_KEY_CERT_SIGN:
    case X509_V_ERR_KU_KEY_CERT_SIGN_INVALID_FOR_NON_CA:
    case X509_V_ERR_CA_BCONS_NOT_CRITICAL:
    case X509_V_ERR_CA_CERT_MISSING_KEY_USAGE:
#endif
      return POLYTLS_VERIFY_INVALID_CA;
    case X509_V_ERR_PERMITTED_VIOLATION:
    case X509_V_ERR_EXCLUDED_VIOLATION:
    case X509_V_ERR_SUBTREE_MINMAX:
    case X509_V_ERR_UNSUPPORTED_CONSTRAINT_TYPE:
    case X509_V_ERR_UNSUPPORTED_CONSTRAINT_SYNTAX:
    case X509_V_ERR_UNSUPPORTED_NAME_SYNTAX:
#ifdef X509_V_ERR_NAME_CONSTRAINTS_WITHOUT_SANS
    case X509_V_ERR_NAME_CONSTRAINTS_WITHOUT_SANS:
#endif
      return POLYTLS_VERIFY_NAME_CONSTRAINT;
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_UNABLE_TO_DECRYPT_CERT_SIGNATURE:
#ifdef X509_V_ERR_SIGNATURE_ALGORITHM_MISMATCH
    case X509_V_ERR_SIGNATURE_ALGORITHM_MISMATCH:
    case X509_V_ERR_SIGNATURE_ALGORITHM_INCONSISTENCY:
#endif
      return POLYTLS_VERIFY_BAD_SIGNATURE;
#ifdef X509_V_ERR_EE_KEY_TOO_SMALL
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
      return POLYTLS_VERIFY_WEAK_KEY;
    case X509_V_ERR_CA_MD_TOO_WEAK:
      return POLYTLS_VERIFY_WEAK_SIGNATURE;
#endif
    case X509_V_ERR_CERT_REVOKED:
      return POLYTLS_VERIFY_REVOKED;
    case X509_V_ERR_ERROR_IN_CERT_NOT_BEFORE_FIELD:
    case X509_V_ERR_ERROR_IN_CERT_NOT_AFTER_FIELD:
    case X509_V_ERR_UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY:
    case X509_V_ERR_INVALID_EXTENSION:
    case X509_V_ERR_INVALID_POLICY_EXTENSION:
#ifdef X509_V_ERR_EC_KEY_EXPLICIT_PARAMS
    case X509_V_ERR_EC_KEY_EXPLICIT_PARAMS:
#endif
      return POLYTLS_VERIFY_MALFORMED;
    default:
      return POLYTLS_VERIFY_OTHER;
  }
}

/* ---- strength ---- */

/* Says whether the certificate's key is strong enough and of a kind whose
 * strength is known. The certificate stays the caller's. */
static inline enum polytls_verify_code polytls_key_strength(X509 *certificate) {
  EVP_PKEY *key = X509_get_pubkey(certificate);
  if (key == NULL) {
    return POLYTLS_VERIFY_MALFORMED;
  }
  int strong = 0;
  switch (EVP_PKEY_id(key)) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
      strong = EVP_PKEY_bits(key) >= POLYTLS_MIN_RSA_BITS;
      break;
    case EVP_PKEY_EC:
      strong = EVP_PKEY_bits(key) >= POLYTLS_MIN_EC_BITS;
      break;
    case EVP_PKEY_ED25519:
      strong = 1;
      break;
    default:
#if !defined(OPENSSL_IS_BORINGSSL) && !defined(OPENSSL_IS_AWSLC)
      strong = EVP_PKEY_get_security_bits(key) >= POLYTLS_MIN_SECURITY_BITS;
#endif
      break;
  }
  EVP_PKEY_free(key);
  return strong ? POLYTLS_VERIFY_OK : POLYTLS_VERIFY_WEAK_KEY;
}

/* Says whether the certificate is signed with a hash that still counts. The
 * certificate stays the caller's. */
static inline enum polytls_verify_code polytls_signature_strength(X509 *certificate) {
#ifdef OPENSSL_IS_BORINGSSL
  int hash = NID_undef;
  int signature = X509_get_signature_nid(certificate);
  if (signature == NID_ED25519 || signature == NID_rsassaPss) {
    /* BoringSSL accepts PSS with SHA-256, SHA-384 and SHA-512 only. */
    return POLYTLS_VERIFY_OK;
  }
  if (!OBJ_find_sigid_algs(signature, &hash, NULL)) {
    return POLYTLS_VERIFY_WEAK_SIGNATURE;
  }
  switch (hash) {
    case NID_sha224:
    case NID_sha256:
    case NID_sha384:
    case NID_sha512:
      return POLYTLS_VERIFY_OK;
    default:
      return POLYTLS_VERIFY_WEAK_SIGNATURE;
  }
#else
  int security_bits = -1;
  if (!X509_get_signature_info(certificate, NULL, NULL, &security_bits, NULL)) {
    return POLYTLS_VERIFY_WEAK_SIGNATURE;
  }
  return security_bits >= POLYTLS_MIN_SECURITY_BITS ? POLYTLS_VERIFY_OK : POLYTLS_VERIFY_WEAK_SIGNATURE;
#endif
}

/* ---- verification ---- */

/* Records a refusal, in the store context too: a library that asks it for the
 * error must not read "OK" there. Returns 0. */
static inline int polytls_verify_refuse(X509_STORE_CTX *ctx, struct polytls_outcome *outcome,
                                        enum polytls_verify_code code, int depth, long library_code,
                                        const char *text) {
  outcome->code = code == POLYTLS_VERIFY_OK ? POLYTLS_VERIFY_OTHER : code;
  outcome->depth = depth;
  outcome->library_code = library_code == X509_V_OK ? X509_V_ERR_UNSPECIFIED : library_code;
  outcome->text = text;
  sk_X509_pop_free(outcome->verified, X509_free);
  outcome->verified = NULL;
  X509_STORE_CTX_set_error(ctx, (int)outcome->library_code);
  return 0;
}

/* Reports whether the candidate has signed the certificate: 1 or 0. */
static inline int polytls_has_signed(X509 *candidate, X509 *certificate) {
  if (X509_NAME_cmp(X509_get_subject_name(candidate), X509_get_issuer_name(certificate)) != 0) {
    return 0;
  }
  EVP_PKEY *key = X509_get_pubkey(candidate);
  int signed_it = key != NULL && X509_verify(certificate, key) == 1;
  EVP_PKEY_free(key);
  return signed_it;
}

/* How many signatures are looked at to tell a cause: the keys are the peer's, and
 * those of OpenSSL may have exponents that make each take milliseconds. */
#define POLYTLS_MAX_CAUSES 2

/* Reports whether one of the candidates has signed the certificate but may not:
 * 1 or 0. Only the first that have the issuer's name are looked at. */
static inline int polytls_signed_by_non_ca(STACK_OF(X509) *candidates, X509 *certificate) {
  int count = candidates == NULL ? 0 : (int)sk_X509_num(candidates);
  int looked = 0;
  for (int i = 0; i < count && looked < POLYTLS_MAX_CAUSES; i++) {
    X509 *candidate = sk_X509_value(candidates, i);
    if (X509_NAME_cmp(X509_get_subject_name(candidate), X509_get_issuer_name(certificate)) != 0 ||
        (X509_check_ca(candidate) != 0 && (X509_get_key_usage(candidate) & KU_KEY_CERT_SIGN))) {
      continue;
    }
    looked++;
    if (polytls_has_signed(candidate, certificate)) {
      return 1;
    }
  }
  return 0;
}

/* Copies the store's certificates with this subject. The caller frees them;
 * NULL for none. The context's verification must have run. */
static inline STACK_OF(X509) *polytls_anchors_named(X509_STORE_CTX *ctx, X509_NAME *subject) {
#ifdef OPENSSL_IS_BORINGSSL
  return X509_STORE_get1_certs(ctx, subject);
#else
  return X509_STORE_CTX_get1_certs(ctx, subject);
#endif
}

/* Says more precisely why X509_verify_cert has failed. BoringSSL takes no
 * certificate for an issuer that may not issue, its own issuer included, and
 * reports all of that as a missing issuer. *depth is corrected with it. */
static inline enum polytls_verify_code polytls_verify_cause(X509_STORE_CTX *ctx, STACK_OF(X509) *sent,
                                                            enum polytls_verify_code code, int *depth) {
  X509 *culprit = X509_STORE_CTX_get_current_cert(ctx);
  if (culprit == NULL) {
    return code;
  }
  /* A library without MD5 or SHA-1 calls such a signature wrong. */
  if (code == POLYTLS_VERIFY_BAD_SIGNATURE && polytls_signature_strength(culprit) != POLYTLS_VERIFY_OK) {
    return POLYTLS_VERIFY_WEAK_SIGNATURE;
  }
  if (code != POLYTLS_VERIFY_UNTRUSTED) {
    return code;
  }
  if (*depth == 0 && polytls_has_signed(culprit, culprit)) {
    return POLYTLS_VERIFY_SELF_SIGNED;
  }
  STACK_OF(X509) *anchors = polytls_anchors_named(ctx, X509_get_issuer_name(culprit));
  int non_ca = polytls_signed_by_non_ca(sent, culprit) || polytls_signed_by_non_ca(anchors, culprit);
  sk_X509_pop_free(anchors, X509_free);
  if (non_ca) {
    (*depth)++;
    return POLYTLS_VERIFY_INVALID_CA;
  }
  return code;
}

/* Reports whether the certificate is byte for byte one of the store's: 1 or 0.
 * Uses the store context, whose verification must have run. */
static inline int polytls_is_anchor(X509_STORE_CTX *ctx, X509 *certificate) {
  STACK_OF(X509) *candidates = polytls_anchors_named(ctx, X509_get_subject_name(certificate));
  int found = 0;
  int count = candidates == NULL ? 0 : (int)sk_X509_num(candidates);
  for (int i = 0; i < count && !found; i++) {
    found = X509_cmp(sk_X509_value(candidates, i), certificate) == 0;
  }
  sk_X509_pop_free(candidates, X509_free);
  return found;
}

/* Checks the validity of a leaf that is itself an anchor, as X509_verify_cert
 * would; polytls_verify_chain does the rest. Returns 1, or refuses. */
static inline int polytls_verify_lone_anchor(X509_STORE_CTX *ctx, X509 *leaf, struct polytls_outcome *outcome) {
  int before = X509_cmp_current_time(X509_get0_notBefore(leaf));
  int after = X509_cmp_current_time(X509_get0_notAfter(leaf));
  if (before == 0 || after == 0) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_MALFORMED, 0,
                                 X509_V_ERR_ERROR_IN_CERT_NOT_BEFORE_FIELD, "the validity of the certificate is malformed");
  }
  if (before > 0) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_NOT_YET_VALID, 0, X509_V_ERR_CERT_NOT_YET_VALID,
                                 "the certificate is not yet valid");
  }
  if (after < 0) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_EXPIRED, 0, X509_V_ERR_CERT_HAS_EXPIRED,
                                 "the certificate has expired");
  }
  return 1;
}

/* Reports whether the extended key usage of a certificate, leaf or issuer, lets
 * it stand for such a peer: 1 or 0. Without the extension, and with
 * anyExtendedKeyUsage, every use is allowed (RFC 5280 section 4.2.1.12), which
 * the libraries' own purposes see differently. */
static inline int polytls_allows_usage(X509 *certificate, enum polytls_role peer) {
  uint32_t wanted = (peer == POLYTLS_SERVER ? XKU_SSL_SERVER : XKU_SSL_CLIENT) | XKU_ANYEKU;
  return (X509_get_extended_key_usage(certificate) & wanted) != 0;
}

/* Checks the verified chain for what not every library does (BoringSSL looks at
 * the extensions of untrusted certificates only, so that a supplied leaf could
 * issue certificates there): extensions understood, issuers that may issue, path
 * lengths, usages, and the strength of keys and signatures. Returns 1, or
 * refuses. */
static inline int polytls_verify_chain(X509_STORE_CTX *ctx, STACK_OF(X509) *chain, enum polytls_role peer,
                                       struct polytls_outcome *outcome) {
  int count = (int)sk_X509_num(chain);
  long below = 0; /* certificates under this one that count for a path length */
  for (int i = 0; i < count; i++) {
    X509 *certificate = sk_X509_value(chain, i);
    uint32_t flags = X509_get_extension_flags(certificate);
    if (flags & EXFLAG_INVALID) {
      return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_MALFORMED, i, X509_V_ERR_INVALID_EXTENSION,
                                   "an extension of the certificate is malformed");
    }
    if (flags & EXFLAG_CRITICAL) {
      return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_OTHER, i, X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION,
                                   "a critical extension of the certificate is not understood");
    }
    if (i > 0) {
      if (X509_check_ca(certificate) == 0) {
        return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_INVALID_CA, i, X509_V_ERR_INVALID_CA,
                                     "the issuer is no certificate authority");
      }
      if (!(X509_get_key_usage(certificate) & KU_KEY_CERT_SIGN)) {
        return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_INVALID_CA, i, X509_V_ERR_KEYUSAGE_NO_CERTSIGN,
                                     "the issuer's key usage does not allow it to sign certificates");
      }
      long path_length = X509_get_pathlen(certificate);
      if (path_length >= 0 && i > 1 && below - 1 > path_length) {
        return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_INVALID_CA, i, X509_V_ERR_PATH_LENGTH_EXCEEDED,
                                     "the chain is longer than the issuer allows");
      }
    }
    if (!polytls_allows_usage(certificate, peer)) {
      return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_KEY_USAGE, i, X509_V_ERR_INVALID_PURPOSE,
                                   i > 0 ? "the extended key usage of the issuer does not allow this use"
                                         : "the extended key usage of the certificate does not allow this use");
    }
    if (i == 0 || !(flags & EXFLAG_SI)) {
      below++;
    }
    enum polytls_verify_code strength = polytls_key_strength(certificate);
    if (strength != POLYTLS_VERIFY_OK) {
      return polytls_verify_refuse(ctx, outcome, strength, i, X509_V_ERR_CERT_REJECTED,
                                   strength == POLYTLS_VERIFY_WEAK_KEY ? "the key of the certificate is too weak"
                                                                       : "the key of the certificate cannot be read");
    }
    /* Nothing depends on the signature of the anchor. */
    if (i < count - 1 && polytls_signature_strength(certificate) != POLYTLS_VERIFY_OK) {
      return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_WEAK_SIGNATURE, i, X509_V_ERR_CERT_REJECTED,
                                   "the certificate is signed with a hash that is too weak");
    }
  }
  return 1;
}

/* Checks the certificates of the verified chain under its first anchor against
 * the lists. Returns 1, or refuses. */
static inline int polytls_verify_revocation(X509_STORE_CTX *ctx, STACK_OF(X509) *chain, STACK_OF(X509_CRL) *lists,
                                            struct polytls_outcome *outcome) {
  int last = (int)sk_X509_num(chain) - 1;
  int count = 0;
  /* The libraries go on to a root although a certificate under it is one of the
   * anchors. */
  while (count < last && !polytls_is_anchor(ctx, sk_X509_value(chain, count))) {
    count++;
  }
  int depth = 0;
  enum polytls_verify_code code = polytls_revocation_check(lists, chain, count, &depth);
  if (code == POLYTLS_VERIFY_OK) {
    return 1;
  }
  return code == POLYTLS_VERIFY_REVOKED
             ? polytls_verify_refuse(ctx, outcome, code, depth, X509_V_ERR_CERT_REVOKED,
                                     "the revocation list of its issuer names it")
             : polytls_verify_refuse(ctx, outcome, code, depth, X509_V_ERR_UNABLE_TO_GET_CRL,
                                     "there is no current and usable revocation list of its issuer");
}

/* The libraries make whole names of the distribution points that are named
 * relative to a certificate's issuer, as soon as they look at its extensions: each
 * takes as much memory as the issuer's name, some 5 bytes for each byte of the
 * extension and each of the name (CVE-2026-35189). Lists are never looked up
 * there, and real certificates come to a tenth of this. */
#define POLYTLS_MAX_POINTS ((size_t)2 << 20)

/* Returns the bytes of a certificate's distribution points by those of its
 * issuer's name. The certificate stays the caller's; its extensions are not looked
 * at by the library. */
static inline size_t polytls_points(X509 *certificate) {
  int name = i2d_X509_NAME(X509_get_issuer_name(certificate), NULL);
  if (name < 0) {
    return POLYTLS_MAX_POINTS + 1;
  }
  size_t points = 0;
  for (int at = -1; (at = X509_get_ext_by_NID(certificate, NID_crl_distribution_points, at)) >= 0;) {
    points += (size_t)ASN1_STRING_length(X509_EXTENSION_get_data(X509_get_ext(certificate, at))) * (size_t)name;
  }
  return points;
}

/* Reports whether what the peer has sent can be looked at with memory in
 * proportion: 1 or 0. The store context has not been used. */
static inline int polytls_points_are_few(X509_STORE_CTX *ctx) {
  X509 *leaf = X509_STORE_CTX_get0_cert(ctx);
  STACK_OF(X509) *untrusted = X509_STORE_CTX_get0_untrusted(ctx);
  size_t points = polytls_points(leaf);
  int count = untrusted == NULL ? 0 : (int)sk_X509_num(untrusted);
  for (int i = 0; i < count && points <= POLYTLS_MAX_POINTS; i++) {
    X509 *certificate = sk_X509_value(untrusted, i);
    points += certificate == leaf ? 0 : polytls_points(certificate);
  }
  return points <= POLYTLS_MAX_POINTS;
}

/* Verifies the certificate of a peer.
 *
 * ctx: initialised with the store of anchors, the peer's leaf and the chain as
 *     sent, not yet used; flags and parameters that it already has stay. It is
 *     used up afterwards. Borrowed, as is names.
 * peer: what the peer is: POLYTLS_SERVER checks a server's certificate and its
 *     names, POLYTLS_CLIENT a client's, without names.
 * names: may be NULL for a client's certificate. With a server's certificate
 *     NULL or an empty list without the skip switch refuses everything.
 * lists: revocation lists that polytls_revocation_add has collected, borrowed;
 *     NULL for no check of revocation.
 * outcome: overwritten; the caller frees it with polytls_outcome_free, before
 *     it is used again too.
 *
 * Every certificate of the store is an anchor, whether CA or leaf, root or not.
 * Returns 1 for accepted, 0 for refused; nothing else. On a refusal the
 * context's error is set, and is never X509_V_OK. */
static inline int polytls_verify(X509_STORE_CTX *ctx, enum polytls_role peer, const struct polytls_names *names,
                                 STACK_OF(X509_CRL) *lists, struct polytls_outcome *outcome) {
  memset(outcome, 0, sizeof(*outcome));
  outcome->code = POLYTLS_VERIFY_OTHER;

  X509 *leaf = X509_STORE_CTX_get0_cert(ctx);
  X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
  if (leaf == NULL || param == NULL || (peer != POLYTLS_SERVER && peer != POLYTLS_CLIENT)) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_OTHER, 0, X509_V_ERR_UNSPECIFIED,
                                 "there is nothing to verify");
  }
  if (!polytls_points_are_few(ctx)) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_MALFORMED, 0, X509_V_ERR_INVALID_EXTENSION,
                                 "the distribution points of its revocation lists are too many");
  }
  outcome->sent = polytls_chain_sent(ctx);
  if (outcome->sent == NULL) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_OTHER, 0, X509_V_ERR_OUT_OF_MEM, "out of memory");
  }

  int trust = peer == POLYTLS_SERVER ? X509_TRUST_SSL_SERVER : X509_TRUST_SSL_CLIENT;
  /* polytls_verify_chain checks the usage, alike for all. */
  if (X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_ANY) != 1 || X509_VERIFY_PARAM_set_trust(param, trust) != 1 ||
      X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST) != 1) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_OTHER, 0, X509_V_ERR_UNSPECIFIED,
                                 "the verification could not be prepared");
  }

  int verified = X509_verify_cert(ctx);
  long error = X509_STORE_CTX_get_error(ctx);
  /* The error counts as well: a verify callback can turn a failure into
   * success without clearing it. */
  if (verified == 1 && error == X509_V_OK) {
    outcome->verified = X509_STORE_CTX_get1_chain(ctx);
  } else if (polytls_is_anchor(ctx, leaf)) {
    /* The user trusts exactly this certificate, so its issuers do not matter.
     * BoringSSL refuses a self-signed one that is no CA. */
    if (!polytls_verify_lone_anchor(ctx, leaf, outcome)) {
      return 0;
    }
    outcome->verified = sk_X509_new_null();
    if (outcome->verified != NULL && !polytls_chain_push(outcome->verified, leaf)) {
      sk_X509_free(outcome->verified);
      outcome->verified = NULL;
    }
  } else {
    int depth = X509_STORE_CTX_get_error_depth(ctx);
    enum polytls_verify_code code = polytls_verify_code_of(error);
    if (depth < 0) {
      depth = 0;
    }
    code = polytls_verify_cause(ctx, outcome->sent, code, &depth);
    return polytls_verify_refuse(ctx, outcome, code, depth, error,
                                 X509_verify_cert_error_string(error));
  }
  if (outcome->verified == NULL || sk_X509_num(outcome->verified) == 0) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_OTHER, 0, X509_V_ERR_OUT_OF_MEM, "out of memory");
  }
  if (!polytls_verify_chain(ctx, outcome->verified, peer, outcome)) {
    return 0;
  }

  if (lists != NULL && !polytls_verify_revocation(ctx, outcome->verified, lists, outcome)) {
    return 0;
  }

  /* TLS 1.3 and the forward-secret suites of TLS 1.2 always sign. BoringSSL
   * refuses such a certificate later on, as a protocol error. */
  if (!(X509_get_key_usage(leaf) & KU_DIGITAL_SIGNATURE)) {
    return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_KEY_USAGE, 0, X509_V_ERR_INVALID_PURPOSE,
                                 "the key usage of the certificate does not allow it to sign");
  }

  if (peer == POLYTLS_SERVER) {
    if (names == NULL || (!names->skip && names->count == 0)) {
      return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_HOSTNAME, 0, X509_V_ERR_HOSTNAME_MISMATCH,
                                   "there is no name to verify; set a server name or skip the check of names");
    }
    if (!names->skip && !polytls_names_match(leaf, names)) {
      return polytls_verify_refuse(ctx, outcome, POLYTLS_VERIFY_HOSTNAME, 0, X509_V_ERR_HOSTNAME_MISMATCH,
                                   "the certificate holds none of the accepted names");
    }
  }

  X509_STORE_CTX_set_error(ctx, X509_V_OK);
  outcome->code = POLYTLS_VERIFY_OK;
  return 1;
}

#endif /* POLYTLS_VERIFY_H */
