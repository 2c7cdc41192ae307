/*
 * Certificate revocation lists (RFC 5280 section 5), the same for every native
 * library and as in stdtls.
 *
 * The libraries' own checks are not used: they ask for a list about the trust
 * anchor, too, and differ in what they make of partial chains and of lists for
 * a part of the certificates. Here a list must say everything about its issuer's
 * certificates, or it counts as missing.
 *
 * A part of polytls_verify.h, and like it for OpenSSL 3.0 and later, BoringSSL
 * and the renamed libcrypto of s2n's archive.
 */
#ifndef POLYTLS_REVOCATION_H
#define POLYTLS_REVOCATION_H

#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <limits.h>
#include <stdint.h>

#include "polytls_native.h"

/* Reports whether an extension of a list does not change what its entries mean.
 * Delta lists and those with an issuing distribution point, which hold a part
 * of the entries only, are among what is not understood. */
static inline int polytls_revocation_list_extension(X509_EXTENSION *extension) {
  int nid = OBJ_obj2nid(X509_EXTENSION_get_object(extension));
  return !X509_EXTENSION_get_critical(extension) || nid == NID_authority_key_identifier || nid == NID_crl_number;
}

/* The same for an extension of an entry. A certificateIssuer makes the entries
 * behind it another CA's. */
static inline int polytls_revocation_entry_extension(X509_EXTENSION *extension) {
  int nid = OBJ_obj2nid(X509_EXTENSION_get_object(extension));
  return nid != NID_certificate_issuer &&
         (!X509_EXTENSION_get_critical(extension) || nid == NID_crl_reason || nid == NID_invalidity_date);
}

/* Reports whether all of the list is understood: 1 or 0. */
static inline int polytls_revocation_understood(X509_CRL *list) {
  for (int i = 0; i < X509_CRL_get_ext_count(list); i++) {
    if (!polytls_revocation_list_extension(X509_CRL_get_ext(list, i))) {
      return 0;
    }
  }
  STACK_OF(X509_REVOKED) *entries = X509_CRL_get_REVOKED(list);
  int count = entries == NULL ? 0 : (int)sk_X509_REVOKED_num(entries);
  for (int i = 0; i < count; i++) {
    X509_REVOKED *entry = sk_X509_REVOKED_value(entries, i);
    for (int j = 0; j < X509_REVOKED_get_ext_count(entry); j++) {
      if (!polytls_revocation_entry_extension(X509_REVOKED_get_ext(entry, j))) {
        return 0;
      }
    }
  }
  return 1;
}

/* Reports whether the hash of the list's signature still counts: 1 or 0. */
static inline int polytls_revocation_strong_hash(X509_CRL *list) {
  int hash = NID_undef;
  int signature = X509_CRL_get_signature_nid(list);
  return !OBJ_find_sigid_algs(signature, &hash, NULL) ||
         (hash != NID_md5 && hash != NID_sha1 && hash != NID_md5_sha1);
}

/* Adds a list in DER, which stays the caller's, to *lists, which is NULL before
 * the first; the caller frees it with sk_X509_CRL_pop_free and X509_CRL_free.
 * One that could never be used is left out: it counts as missing, and *lists is
 * not NULL. Returns 1; 0 when memory ran out; -1 for what is no list. */
static inline int polytls_revocation_add(STACK_OF(X509_CRL) **lists, const uint8_t *der, size_t len) {
  const uint8_t *p = der;
  X509_CRL *list = len == 0 || len > LONG_MAX ? NULL : d2i_X509_CRL(NULL, &p, (long)len);
  if (list == NULL || p != der + len) {
    X509_CRL_free(list);
    return -1;
  }
  if (*lists == NULL) {
    *lists = sk_X509_CRL_new_null();
  }
  int usable = polytls_revocation_understood(list) && polytls_revocation_strong_hash(list);
  int ok = *lists != NULL && (!usable || sk_X509_CRL_push(*lists, list) > 0);
  if (!ok || !usable) {
    X509_CRL_free(list);
  }
  return ok;
}

/* Reports whether the list is in force now: 1, 0, or -1 when that cannot be told
 * for want of memory. One that does not say when the next one comes holds for
 * good. */
static inline int polytls_revocation_in_date(X509_CRL *list) {
  const ASN1_TIME *next = X509_CRL_get0_nextUpdate(list);
  int begun = X509_cmp_current_time(X509_CRL_get0_lastUpdate(list));
  int ends = next == NULL ? 1 : X509_cmp_current_time(next);
  return begun == 0 || ends == 0 ? -1 : begun < 0 && ends > 0;
}

/* Reports whether one of the errors in the queue, which is empty afterwards, is
 * that memory ran out: 1 or 0. */
static inline int polytls_revocation_out_of_memory(void) {
  int out = 0;
  for (unsigned long error = ERR_get_error(); error != 0; error = ERR_get_error()) {
    out = out || ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
  }
  return out;
}

/* Reports whether the issuer, which has the list's name, has made the list, and
 * may: 1, 0, or -1 when that cannot be told for want of memory. Not every failed
 * allocation becomes an error of its own: a signature that is wrong is wrong when
 * it is looked at again. */
static inline int polytls_revocation_issued_by(X509_CRL *list, X509 *issuer) {
  if (!(X509_get_key_usage(issuer) & KU_CRL_SIGN)) {
    return 0;
  }
  EVP_PKEY *key = X509_get_pubkey(issuer);
  if (key == NULL) {
    return -1;
  }
  ERR_clear_error();
  int issued = X509_CRL_verify(list, key) == 1;
  if (!issued && (polytls_revocation_out_of_memory() || X509_CRL_verify(list, key) == 1 ||
                  polytls_revocation_out_of_memory())) {
    issued = -1;
  }
  EVP_PKEY_free(key);
  return issued;
}

/* Reports whether one list is newer than another: 1, 0, or -1 when that cannot be
 * told for want of memory. */
static inline int polytls_revocation_newer(X509_CRL *list, X509_CRL *than) {
  int days = 0;
  int seconds = 0;
  if (ASN1_TIME_diff(&days, &seconds, X509_CRL_get0_lastUpdate(than), X509_CRL_get0_lastUpdate(list)) != 1) {
    return -1;
  }
  return days > 0 || seconds > 0;
}

/* Returns the newest of the issuer's lists that are in force, or NULL; it stays in
 * lists. NULL as well when it cannot be told for want of memory which that is: an
 * older one does not stand in for it. */
static inline X509_CRL *polytls_revocation_current(STACK_OF(X509_CRL) *lists, X509 *issuer) {
  X509_CRL *newest = NULL;
  int count = (int)sk_X509_CRL_num(lists);
  for (int i = 0; i < count; i++) {
    X509_CRL *list = sk_X509_CRL_value(lists, i);
    /* Names are made comparable when they are parsed: this needs no memory. */
    if (X509_NAME_cmp(X509_CRL_get_issuer(list), X509_get_subject_name(issuer)) != 0) {
      continue;
    }
    int better = polytls_revocation_in_date(list);
    if (better == 1 && newest != NULL) {
      better = polytls_revocation_newer(list, newest);
    }
    if (better == 1) {
      better = polytls_revocation_issued_by(list, issuer);
    }
    if (better < 0) {
      return NULL;
    }
    if (better) {
      newest = list;
    }
  }
  return newest;
}

/* Looks the first certificates of a verified chain up in the lists of their
 * issuers, the next ones in the chain; count does not reach the anchor. Nothing
 * changes hands. Returns POLYTLS_VERIFY_OK, or POLYTLS_VERIFY_REVOKED, which
 * goes before POLYTLS_VERIFY_REVOCATION_UNKNOWN, with the certificate in
 * *depth. */
static inline enum polytls_verify_code polytls_revocation_check(STACK_OF(X509_CRL) *lists, STACK_OF(X509) *chain,
                                                                int count, int *depth) {
  enum polytls_verify_code code = POLYTLS_VERIFY_OK;
  for (int i = 0; i < count; i++) {
    X509_CRL *list = polytls_revocation_current(lists, sk_X509_value(chain, i + 1));
    X509_REVOKED *entry = NULL;
    /* 2 stands for an entry that takes the revocation back. */
    if (list != NULL && X509_CRL_get0_by_cert(list, &entry, sk_X509_value(chain, i)) == 1) {
      *depth = i;
      return POLYTLS_VERIFY_REVOKED;
    }
    if (list == NULL && code == POLYTLS_VERIFY_OK) {
      *depth = i;
      code = POLYTLS_VERIFY_REVOCATION_UNKNOWN;
    }
  }
  return code;
}

#endif /* POLYTLS_REVOCATION_H */
