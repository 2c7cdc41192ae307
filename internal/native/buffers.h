/* Memory for ciphertext. */
#ifndef POLYTLS_BUFFERS_H
#define POLYTLS_BUFFERS_H

#include <stddef.h>

/* Returns malloc memory that is the caller's, or NULL when there is none. Go's
 * own C.malloc ends the process then. */
void *polytls_buffer_new(size_t size);

#endif
