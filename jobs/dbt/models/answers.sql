select job || '/' || row_id as answer_id, *
from {{ source('batchvision', 'batchvision_results') }}
where in_manifest
