/*!
 * Copies between host memory, buffers and images, on one device or across two.
 */
#ifndef SMARTMEM_RUNTIME_COPY_H_
#define SMARTMEM_RUNTIME_COPY_H_

#include <dlpack/dlpack.h>

namespace smartmem {

/*!
 * \brief Copy all elements of one contiguous tensor to another of the same size in bytes.
 *
 * At least one is on an OpenCL device. Copies that touch host memory are done on return; those on
 * the device are queued. An image holds its elements in row-major order and is copied whole.
 */
void CopyTensor(const DLTensor* from, const DLTensor* to);

}  // namespace smartmem
#endif  // SMARTMEM_RUNTIME_COPY_H_
