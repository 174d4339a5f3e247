//! The S3 operations on the index and the blobs. `s3s` has parsed and authenticated the request and
//! will write the answer; what the operations mean is here.
//!
//! Where it departs from Amazon's store: no ACLs, no lifecycle; encryption is remembered and its keys
//! are asked for, but nothing is encrypted; what is asked back from the archive is there at once, for good;
//! additional checksums (`x-amz-checksum-*`) are not verified, Content-MD5 is; a copy takes no time,
//! and CopyObject has no limit of 5 GiB; the ETag of a copy of a multipart object is a new one, but
//! not the MD5 of its bytes.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::index::Index;

mod buckets;
mod fields;
mod objects;
mod sealed;
mod tagging;
mod uploads;
mod versions;

/// The back end that `s3s` calls.
pub struct Api {
    pub index: Arc<Index>,
}

/// Lets each method of the trait call the function of the same name.
macro_rules! operations {
    ($($module:ident::$name:ident($input:ident) -> $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Api {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                $module::$name(&self.index, request).await.map(S3Response::new)
            })*

            async fn head_object(
                &self,
                request: S3Request<HeadObjectInput>,
            ) -> S3Result<S3Response<HeadObjectOutput>> {
                objects::head_object(&self.index, request).await
            }
        }
    };
}

operations! {
    buckets::list_buckets(ListBucketsInput) -> ListBucketsOutput;
    buckets::create_bucket(CreateBucketInput) -> CreateBucketOutput;
    buckets::head_bucket(HeadBucketInput) -> HeadBucketOutput;
    buckets::delete_bucket(DeleteBucketInput) -> DeleteBucketOutput;
    buckets::get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput;
    buckets::list_objects(ListObjectsInput) -> ListObjectsOutput;
    buckets::list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    objects::get_object(GetObjectInput) -> GetObjectOutput;
    objects::put_object(PutObjectInput) -> PutObjectOutput;
    objects::copy_object(CopyObjectInput) -> CopyObjectOutput;
    objects::delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    sealed::restore_object(RestoreObjectInput) -> RestoreObjectOutput;
    objects::delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    tagging::get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput;
    tagging::put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput;
    tagging::delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
    versions::get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    versions::put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
    versions::list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;
    uploads::create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    uploads::upload_part(UploadPartInput) -> UploadPartOutput;
    uploads::upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput;
    uploads::complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    uploads::abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    uploads::list_parts(ListPartsInput) -> ListPartsOutput;
    uploads::list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
}
