//go:build cgo

#include "buffers.h"

#include <stdlib.h>

void *polytls_buffer_new(size_t size) { return malloc(size); }
