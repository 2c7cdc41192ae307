/*
 * The security policies of the s2n-tls that is compiled in, for Go. Compiles
 * without s2n; there are no policies then.
 */
#ifndef POLYTLS_S2N_POLICY_TABLE_H
#define POLYTLS_S2N_POLICY_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* One policy; everything it points to is constant and lives as long as the
 * process. Versions, suites, groups and signature schemes are their numbers on
 * the wire, in the policy's order. */
struct polytls_s2n_policy_row {
  const char *name;
  uint16_t min_version;
  uint16_t max_version;
  const uint16_t *suites;
  size_t suites_len;
  const uint16_t *groups;
  size_t groups_len;
  const uint16_t *schemes;
  size_t schemes_len;
  /* Schemes that certificates may be signed with; empty: any. */
  const uint16_t *cert_schemes;
  size_t cert_schemes_len;
  int test_only;
};

/* The number of policies, and the one at index, which must be below it. */
size_t polytls_s2n_policy_count(void);
struct polytls_s2n_policy_row polytls_s2n_policy_at(size_t index);

#endif /* POLYTLS_S2N_POLICY_TABLE_H */
