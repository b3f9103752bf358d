// Stands in for a header that TVM's wheel leaves out: see io.h.
#include <tvm/support/io.h>
